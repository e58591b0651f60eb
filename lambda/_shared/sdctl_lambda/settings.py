"""A function's settings, read once from its environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Where a function's table, topics and buckets are, and below which path the runtimes are listed."""

    table: str
    input_topic_arn: str
    output_topic_arn: str
    output_bucket: str
    model_bucket: str
    runtimes_path: str


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
        runtimes_path=environment["RUNTIMES_PATH"],
    )
