"""The record of what was deployed from where, so that later commands need no flags.

One JSON file a deployment below the state folder, replaced whole, readable by its owner only: on the
local target it holds the API key. Makes no call to any other system.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from sdctl.errors import ConfigError

_FOLDER: Final = "deployments"


def home(env: Mapping[str, str]) -> Path:
    """Return the state folder, made where it is missing: `SDCTL_HOME`, else the platform's default."""
    path = _home_path(env)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the state folder {path} cannot be made: {error.strerror}",
            hint="set SDCTL_HOME to another folder",
        ) from error
    return path


def _home_path(env: Mapping[str, str]) -> Path:
    if env.get("SDCTL_HOME"):
        return Path(env["SDCTL_HOME"]).expanduser().absolute()
    if env.get("XDG_STATE_HOME"):
        return Path(env["XDG_STATE_HOME"]) / "sdctl"
    if sys.platform == "win32":
        return Path(env.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "sdctl"
    user = Path(env["HOME"]) if env.get("HOME") else Path.home()
    return user / ("Library/Application Support" if sys.platform == "darwin" else ".local/state") / "sdctl"


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment: what it is called, from which folder it came, and what it gave back.

    `outputs` are the front stack's outputs. `runtimes` maps each runtime's name to its type, `snapshots` to
    the snapshot with images that its nodes start from, where there is one, `missing_models` to the checkpoint
    that the model bucket lacked for it at the end of the deploy.
    `api_key` and `endpoint_url`, the emulator's address, are kept for the local target only.
    """

    stack_name: str
    region: str
    target: str
    folder: str
    outputs: dict[str, str]
    api_key: str = field(default="", repr=False)
    endpoint_url: str = ""
    deployed_at: str = ""
    runtimes: dict[str, str] = field(default_factory=dict)
    profile: str = ""
    snapshots: dict[str, str] = field(default_factory=dict)
    missing_models: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Name the record: one per stack, region, target, and, on the local target, folder."""
        folder = self.folder if self.target == "local" else ""
        text = "\0".join((self.target, self.region, self.stack_name, folder))
        return hashlib.sha256(text.encode()).hexdigest()[:24]


class Deployments:
    """The records below one state folder."""

    def __init__(self, home: Path) -> None:
        self._folder = home / _FOLDER

    def record(self, deployment: Deployment) -> None:
        """Keep a deployment, in place of an earlier record of the same one."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=".new-")  # made with mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(asdict(deployment), file, indent=1)
            Path(name).replace(self._path(deployment))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def forget(self, deployment: Deployment) -> None:
        """Drop a deployment's record, if there is one."""
        self._path(deployment).unlink(missing_ok=True)

    def all(self) -> list[Deployment]:
        """Return every record, latest first.

        Raises:
            ConfigError: a record is not readable.
        """
        if not self._folder.is_dir():
            return []
        found = [_read(path) for path in sorted(self._folder.glob("*.json"))]
        kept = [deployment for deployment in found if deployment is not None]
        return sorted(kept, key=lambda one: one.deployed_at, reverse=True)

    def find(
        self,
        *,
        folder: Path,
        stack_name: str | None = None,
        region: str | None = None,
        target: str | None = None,
    ) -> Deployment | None:
        """Return the last deployment of `folder` that fits, else the only one that fits, else None."""
        fitting = [
            one
            for one in self.all()
            if stack_name in (None, one.stack_name)
            and region in (None, one.region)
            and target in (None, one.target)
        ]
        here = str(folder.absolute())
        of_folder = [one for one in fitting if one.folder == here]
        if of_folder:
            return of_folder[0]
        return fitting[0] if len(fitting) == 1 else None

    def _path(self, deployment: Deployment) -> Path:
        return self._folder / f"{deployment.key}.json"


def _read(path: Path) -> Deployment | None:
    """Read one record; None where it was dropped by another process meanwhile."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = {one.name for one in fields(Deployment)}
        return Deployment(**{name: value for name, value in document.items() if name in known})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"the deployment record {path} cannot be read: {error}", hint=f"delete {path}"
        ) from error
