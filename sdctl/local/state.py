"""The state folder of one local deployment: its files, its settings, and the ports it keeps.

Everything in it is readable by its owner only, since the settings hold the key pair. Files are
replaced whole, so that a reader never sees half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from sdctl.errors import ConfigError

LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class EmulatorSettings:
    """What the emulator needs to start, and who may use it; made once and kept, so that URLs stay."""

    port: int
    region: str
    account_id: str
    secret_key: str = field(repr=False)

    @property
    def endpoint_url(self) -> str:
        """The address of all its services."""
        return f"http://{LOOPBACK}:{self.port}"


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The paths below one deployment's state folder."""

    root: Path

    @property
    def settings(self) -> Path:
        """The emulator's port and key pair."""
        return self.root / "settings.json"

    @property
    def desired(self) -> Path:
        """Which children the supervisor shall run."""
        return self.root / "desired.json"

    @property
    def status(self) -> Path:
        """What the supervisor last saw of its children."""
        return self.root / "status.json"

    @property
    def lock(self) -> Path:
        """Locked by the running supervisor, whose process id it holds."""
        return self.root / "supervisor.lock"

    @property
    def logs(self) -> Path:
        """One file a child."""
        return self.root / "logs"

    @property
    def emulator_state(self) -> Path:
        """The emulator's saved state: everything but the objects."""
        return self.root / "emulator"

    @property
    def objects(self) -> Path:
        """The buckets' objects as plain files, `<account>/<bucket>/<key>`; models lie here, too."""
        return self.root / "objects"

    @property
    def temporary(self) -> Path:
        """The children's temporary files, the unpacked Lambda functions among them."""
        return self.root / "tmp"

    def bucket(self, settings: EmulatorSettings, name: str) -> Path:
        """The folder that holds a bucket's objects under their own keys."""
        return self.objects / settings.account_id / name

    def read_settings(self) -> EmulatorSettings:
        """Read the emulator's settings.

        Raises:
            ConfigError: they are missing or damaged.
        """
        try:
            return EmulatorSettings(**read_json(self.settings))
        except (FileNotFoundError, TypeError) as error:
            raise ConfigError(
                f"the local state in {self.root} is damaged: {self.settings.name} is not readable",
                hint=f"rm -r {self.root}, then deploy again",
            ) from error


def folder_of(home: Path, stack_name: str, folder: Path) -> StateFolder:
    """Return the state folder of a stack deployed from `folder`."""
    digest = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]
    return StateFolder(home / "local" / f"{stack_name}-{digest}")


def new_settings(region: str) -> EmulatorSettings:
    """Make the settings of a new emulator: a free port, a random account and secret."""
    account_id = str(secrets.randbelow(9 * 10**11) + 10**11)
    return EmulatorSettings(free_port(), region, account_id, secrets.token_urlsafe(30))


def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Tell whether a loopback port can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def write_json(path: Path, document: Any) -> None:
    """Replace a file by a JSON document, readable by its owner only."""
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any:
    """Read a JSON document.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}", hint=f"delete {path}") from error


def write_settings(folder: StateFolder, settings: EmulatorSettings) -> None:
    """Keep the emulator's settings."""
    write_json(folder.settings, asdict(settings))
