"""Configuration to text: the file that a dry run writes."""

from __future__ import annotations

import yaml

from sdctl.config.model import Config

_HEADER = "# Written by sdctl deploy --dry-run: every setting with its value.\n"


def config_text(config: Config) -> str:
    """Return the `sdctl.yaml` that loads as this configuration."""
    document = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    return _HEADER + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
