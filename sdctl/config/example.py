"""The annotated example, `sdctl.example.yaml`: what `init` writes, the documentation, and a test fixture."""

from __future__ import annotations

from pathlib import Path
from typing import Final

EXAMPLE_FILE: Final = Path(__file__).with_name("sdctl.example.yaml")


def example_text() -> str:
    """Return the annotated `sdctl.yaml`."""
    return EXAMPLE_FILE.read_text(encoding="utf-8")
