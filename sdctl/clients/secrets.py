"""Publishers' tokens: from the environment, from the file of their own tool, or from the keyring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

SERVICE: Final = "sdctl"


def find_token(
    env: Mapping[str, str], variables: Sequence[str], account: str, file: Path | None = None
) -> str:
    """Return the first token there is, or an empty text.

    Args:
        env: the environment.
        variables: its names, in order.
        account: under which `keyring set sdctl ACCOUNT` keeps it.
        file: where another tool keeps it.
    """
    for name in variables:
        if env.get(name, "").strip():
            return env[name].strip()
    if file is not None and file.is_file():
        return file.read_text(encoding="utf-8").strip()
    return _from_keyring(account)


def _from_keyring(account: str) -> str:
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        return ""
    try:
        return keyring.get_password(SERVICE, account) or ""
    except KeyringError:  # a machine without one, or one that is locked
        return ""
