"""A function's settings, read once from its environment."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sdctl.contract import RuntimeInfo

# Marks a list of runtimes that is compressed, since a function's environment may have 4 KB in all:
# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
COMPRESSED_PREFIX: Final = "gz:"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where a function's table, topics and buckets are, and the runtimes by lower-case name."""

    table: str
    input_topic_arn: str
    output_topic_arn: str
    output_bucket: str
    model_bucket: str
    runtimes: Mapping[str, RuntimeInfo]


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings that the front's template sets.

    Raises:
        KeyError: a variable is missing, which is an error of the template.
    """
    return Settings(
        table=environment["TASK_TABLE"],
        input_topic_arn=environment["INPUT_TOPIC_ARN"],
        output_topic_arn=environment["OUTPUT_TOPIC_ARN"],
        output_bucket=environment["OUTPUT_BUCKET"],
        model_bucket=environment.get("MODEL_BUCKET", ""),
        runtimes=read_runtimes(environment["RUNTIMES"]),
    )


def read_runtimes(text: str) -> dict[str, RuntimeInfo]:
    """Decode the list of deployed runtimes: JSON, or `gz:` and base64 of its gzip."""
    if text.startswith(COMPRESSED_PREFIX):
        text = gzip.decompress(base64.b64decode(text[len(COMPRESSED_PREFIX) :])).decode()
    return {
        entry["name"].lower(): RuntimeInfo(
            name=entry["name"],
            type=entry["type"],
            checkpoint=entry.get("checkpoint") or "",
            dynamic=bool(entry.get("dynamic")),
            checkpoints=tuple(entry.get("checkpoints") or ()),
        )
        for entry in json.loads(text)
    }
