"""Which checkpoints sketch says it has: the guide's, those named at start, and those of the models folder.

No checkpoint is ever read. Its name alone shapes the pictures, and its hash is the hash of its name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdctl.contract import DEFAULT_CHECKPOINT

_CHECKPOINT_SUFFIXES = (".safetensors", ".ckpt")
_UPSCALER_FOLDERS = ("ESRGAN", "RealESRGAN", "SwinIR", "upscale_models")
_MAX_LISTED = 5000


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One model file; `file_name` is relative to the folder of checkpoints."""

    file_name: str

    @property
    def model_name(self) -> str:
        """Return the name without its suffix, as A1111 shows it."""
        return re.sub(r"\.(safetensors|ckpt)$", "", self.file_name.replace("/", "_"))

    @property
    def sha256(self) -> str:
        """Return the hash of the name, since there need not be a file."""
        return hashlib.sha256(self.file_name.encode()).hexdigest()

    @property
    def short_hash(self) -> str:
        """Return the ten digits that titles carry."""
        return self.sha256[:10]

    @property
    def title(self) -> str:
        """Return the name that the SD WebUI selects by."""
        return f"{self.file_name} [{self.short_hash}]"

    @property
    def aliases(self) -> tuple[str, ...]:
        """Return every text that names this checkpoint exactly."""
        stem = re.sub(r"\.(safetensors|ckpt)$", "", self.file_name)
        base = self.file_name.rsplit("/", 1)[-1]
        return (self.file_name, self.title, self.model_name, stem, base, self.sha256, self.short_hash,
                f"{self.model_name} [{self.short_hash}]")  # fmt: skip


class Models:
    """The list of checkpoints and upscalers, read again on demand."""

    def __init__(self, names: Sequence[str] = (), folder: Path | None = None) -> None:
        self._names = (DEFAULT_CHECKPOINT, *names)
        self.folder = folder
        self.checkpoints: tuple[Checkpoint, ...] = ()
        self.upscalers: tuple[str, ...] = ()
        self.refresh()

    def refresh(self) -> None:
        """Read the models folder again."""
        files: list[str] = []
        upscalers: list[str] = []
        if self.folder is not None:
            files = _files(self.folder / "Stable-diffusion", _CHECKPOINT_SUFFIXES)
            for name in _UPSCALER_FOLDERS:
                upscalers += _files(self.folder / name, (".pth", ".safetensors", ".pt"))
        self.checkpoints = tuple(Checkpoint(name) for name in _unique((*self._names, *files)))
        self.upscalers = tuple(_unique(upscalers))

    def exactly(self, text: str) -> Checkpoint | None:
        """Find a checkpoint by one of its aliases."""
        return next((one for one in self.checkpoints if text in one.aliases), None)

    def closest(self, text: str) -> Checkpoint | None:
        """Find a checkpoint as A1111 does: by alias, else by a part of its title, the shortest first."""
        if not text:
            return None
        bare = re.sub(r" \[[0-9a-f]*\]$", "", text)
        for wanted in dict.fromkeys((text, bare)):
            exact = self.exactly(wanted)
            if exact is not None:
                return exact
            partial = [one for one in self.checkpoints if wanted in one.title]
            if partial:
                return min(partial, key=lambda one: len(one.title))
        return None


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    if not folder.is_dir():
        return []
    return [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))[:_MAX_LISTED]
        if path.suffix.lower() in suffixes and path.is_file()
    ]


def _unique(names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name]
