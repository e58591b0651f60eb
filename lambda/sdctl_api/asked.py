"""Which runtime a submit is for, before anything of it is validated. Pure."""

from __future__ import annotations


def asked_runtime(document: object) -> str:
    """Return the runtime that a v1alpha2 body names, or an empty text."""
    return _text(document, "task", "metadata", "runtime")


def asked_checkpoint(document: object) -> str:
    """Return the checkpoint that a v1alpha1 body names, or an empty text."""
    return _text(document, "alwayson_scripts", "sd_model_checkpoint")


def _text(document: object, *path: str) -> str:
    for key in path:
        document = document.get(key) if isinstance(document, dict) else None
    return document if isinstance(document, str) else ""
