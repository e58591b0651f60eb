"""Which of an SD WebUI's models a name means. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sdctl.contract import nearest
from sdctl_agent.errors import PermanentError

_HASH_SUFFIX = re.compile(r"\s*\[([0-9a-fA-F]{8,64})\]$")
_MODEL_SUFFIX = re.compile(r"\.(safetensors|ckpt|gguf|sft|pt|pth|bin)$", re.IGNORECASE)
_HASH = re.compile(r"[0-9a-fA-F]{8,64}")
MAX_NAMES_IN_MESSAGE: Final = 30


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One entry of `/sdapi/v1/sd-models`; an empty hash is one not computed yet."""

    title: str
    model_name: str
    filename: str
    hash: str = ""
    sha256: str = ""

    @property
    def file(self) -> str:
        """The last part of the file's path."""
        return self.filename.replace("\\", "/").rsplit("/", 1)[-1]

    @property
    def stem(self) -> str:
        """The file's name without its extension, as `info.sd_model_name` gives it."""
        return _MODEL_SUFFIX.sub("", self.file)

    def is_named(self, name: str) -> bool:
        """Tell whether `info.sd_model_name` means this model; sd-server keeps the extension there."""
        base = _MODEL_SUFFIX.sub("", name.replace("\\", "/").rsplit("/", 1)[-1]).casefold()
        return base in (self.stem.casefold(), _MODEL_SUFFIX.sub("", self.model_name).casefold())

    @property
    def bare_title(self) -> str:
        """The title without its hash."""
        return bare_title(self.title)


def bare_title(title: str) -> str:
    """Return a title without the hash that AUTOMATIC1111 appends once it has computed it."""
    return _HASH_SUFFIX.sub("", title)


def read_checkpoints(document: Any) -> tuple[Checkpoint, ...]:
    """Read the answer of `/sdapi/v1/sd-models`; entries that are no models are left out."""
    entries = document if isinstance(document, list) else []
    return tuple(
        Checkpoint(*(_text(entry, key) for key in ("title", "model_name", "filename", "hash", "sha256")))
        for entry in entries
        if isinstance(entry, dict) and entry.get("title")
    )


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


# From the most exact meaning of a name to the least.
_MEANINGS: Final[tuple[Callable[[Checkpoint], str], ...]] = (
    lambda model: model.title,
    lambda model: model.bare_title,
    lambda model: model.file,
    lambda model: model.model_name,
    lambda model: model.stem,
)


def find_checkpoint(name: str, known: Iterable[Checkpoint]) -> Checkpoint | None:
    """Find the model that a title, file name, model name, stem or hash means.

    What is spelled exactly wins over what differs in case only; a hash counts in either case, in its
    short form (8 or 10 digits) or whole. A title with an outdated hash still names its file.

    Raises:
        PermanentError: the name fits several models and none exactly.
    """
    models = tuple(known)
    for spelling in (str, str.casefold):
        for meaning in _MEANINGS:
            fits = [model for model in models if spelling(meaning(model)) == spelling(name) and name]
            if len(fits) == 1:
                return fits[0]
            if fits:
                titles = ", ".join(model.title for model in fits)
                raise PermanentError(
                    f'checkpoint "{name}" means several: {titles}', code="unknown_checkpoint"
                )
    if _HASH.fullmatch(name):
        digits = name.lower()
        for model in models:
            if digits in (model.hash.lower(), model.sha256.lower(), model.sha256.lower()[: len(digits)]):
                return model
    bare = _HASH_SUFFIX.sub("", name)
    return find_checkpoint(bare, models) if bare != name else None


def unknown_checkpoint(name: str, known: Iterable[Checkpoint]) -> PermanentError:
    """Make the error for a model that the server does not have, listing those that it has."""
    titles = [model.title for model in known]
    listed = ", ".join(titles[:MAX_NAMES_IN_MESSAGE]) or "none"
    more = f" and {len(titles) - MAX_NAMES_IN_MESSAGE} more" if len(titles) > MAX_NAMES_IN_MESSAGE else ""
    return PermanentError(
        f'unknown checkpoint "{name}"; known: {listed}{more}{nearest(name, titles)}',
        code="unknown_checkpoint",
    )
