"""Under which key a model is stored; names come from outside and are hostile until they have passed here."""

from __future__ import annotations

from pathlib import PurePosixPath
from shlex import quote
from typing import Final

from sdctl.contract import DEFAULT_CHECKPOINT
from sdctl.errors import UsageError
from sdctl.models.head import PICKLE, SAFETENSORS, BadModelError
from sdctl.models.identify import CHECKPOINT_FOLDER, FOLDERS

PICKLE_SUFFIXES: Final = (".ckpt", ".pt", ".pth", ".bin")
MODEL_SUFFIXES: Final = (".safetensors", ".sft", *PICKLE_SUFFIXES)
# What lies beside models and is none: recipes and descriptions, and formats that are not examined.
DESCRIPTION_SUFFIXES: Final = (".yaml", ".yml", ".json", ".txt")
OTHER_SUFFIXES: Final = (*DESCRIPTION_SUFFIXES, ".gguf", ".onnx")
_MAX_NAME_BYTES: Final = 200
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
_MAX_KEY_BYTES: Final = 1024
# Where the guide's default comes from: https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5
DEFAULT_SOURCE: Final = f"hf:stable-diffusion-v1-5/stable-diffusion-v1-5/{DEFAULT_CHECKPOINT}"
_BY_LOWER_NAME: Final = {name.lower(): name for name in FOLDERS}


def file_name(text: str) -> str:
    """Check a file's name.

    Raises:
        UsageError: it is empty, leads elsewhere, or holds what no file's name should.
    """
    name = text.strip()
    is_bad = not name or name in (".", "..") or "/" in name or "\\" in name or not name.isprintable()
    if is_bad or name.startswith(".") or len(name.encode("utf-8", "replace")) > _MAX_NAME_BYTES:
        raise UsageError(f"{text[:80]!r} cannot be a model's name", hint="give another one with --name")
    return name


def folder_name(text: str) -> str:
    """Check a folder of the bucket; the guide's folders are spelled the guide's way.

    Raises:
        UsageError: it leads elsewhere.
    """
    parts = [part for part in text.strip("/").split("/") if part]
    if not parts or (text.startswith("/") and not text.strip("/")):
        raise UsageError("a folder is needed", hint=f"the guide's folders are {', '.join(FOLDERS)}")
    checked = [file_name(part) for part in parts]
    return "/".join([_BY_LOWER_NAME.get(checked[0].lower(), checked[0]), *checked[1:]])


def key_of(folder: str, name: str) -> str:
    """Join a folder and a name.

    Raises:
        UsageError: the key is too long for S3.
    """
    key = f"{folder}/{name}"
    if len(key.encode()) > _MAX_KEY_BYTES:
        raise UsageError(f"the key {key[:80]!r}… is longer than {_MAX_KEY_BYTES} bytes")
    return key


def with_suffix(name: str, format_: str) -> str:
    """Give a name the suffix of its content where it has none that loaders know.

    Raises:
        BadModelError: it says safetensors, and the content is something else.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in (".safetensors", ".sft") and format_ != SAFETENSORS:
        raise BadModelError(f"{name} is not a safetensors file by its content")
    if format_ == SAFETENSORS and suffix in PICKLE_SUFFIXES:
        return f"{name[: -len(suffix)]}.safetensors"  # a loader goes by the suffix, and would unpickle it
    if suffix in MODEL_SUFFIXES:
        return name
    return name + {SAFETENSORS: ".safetensors", PICKLE: ".ckpt"}[format_]


def bring_command(checkpoint: str) -> str:
    """Return the one command that brings a missing checkpoint."""
    if checkpoint == DEFAULT_CHECKPOINT:
        return f"sdctl models upload {DEFAULT_SOURCE}"
    return f"sdctl models upload {quote(checkpoint)} --to {CHECKPOINT_FOLDER}"
