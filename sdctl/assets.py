"""Finds the files that travel with the package: templates, charts and Lambda sources.

The only module that knows where they are: beside `sdctl/` in a checkout, in `sdctl/_assets/` in a wheel.
"""

from __future__ import annotations

from pathlib import Path

from sdctl.errors import NotFoundError

_PACKAGE = Path(__file__).resolve().parent


def asset_dir(name: str) -> Path:
    """Return the folder `templates`, `charts` or `lambda`.

    Raises:
        NotFoundError: this installation lacks it.
    """
    for folder in (_PACKAGE / "_assets" / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise NotFoundError(f"this installation of sdctl lacks its folder {name}", hint="reinstall sdctl")
