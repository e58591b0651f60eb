"""Turns the environment into the agent's settings, once, with every problem named at once.

Reads nothing but the mapping that it is given, and does nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sdctl import contract
from sdctl_agent.errors import SettingsError

REQUIRED = (
    "RUNTIME_TYPE", "RUNTIME_NAME", "API_BASE_URL", "SQS_QUEUE_URL", "SNS_TOPIC_ARN", "S3_BUCKET",
    "AWS_DEFAULT_REGION",
)  # fmt: skip

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# SQS keeps a message invisible for at most 12 hours after it was received:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
MAX_TASK_TIMEOUT_SECONDS = 11 * 3600
_HOST_PORT = re.compile(r"[A-Za-z0-9_.\-]+:\d{1,5}|\[[0-9A-Fa-f:.]+\]:\d{1,5}")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the agent was told; `api_base_url` is `http://host:port` without a path."""

    runtime_type: str
    runtime_name: str
    api_base_url: str
    queue_url: str
    topic_arn: str
    bucket: str
    region: str
    dynamic_models: bool = False
    log_level: str = "INFO"
    max_attempts: int = 3
    task_timeout_seconds: float = 3600
    drain_seconds: float = 90
    notify_running: bool = False
    metrics_port: int | None = None
    dead_letter_queue_url: str = ""
    task_table: str = ""
    input_allowlist: tuple[str, ...] = ()
    stall_timeout_seconds: float = 900
    is_traced: bool = False


class _Reader:
    """Reads variables one by one and collects what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        return self._environment.get(name, "").strip() or default

    def required(self, name: str) -> str:
        value = self.text(name)
        if not value:
            self.problems.append(f"{name} is required")
        return value

    def parsed(self, name: str, default: Any, parse: Callable[[str], Any], allowed: str) -> Any:
        value = self.text(name)
        if not value:
            return default
        try:
            return parse(value)
        except ValueError:
            self.problems.append(f'{name}: "{value}" is not {allowed}')
            return default


def _boolean(value: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        return known[value.lower()]
    except KeyError:
        raise ValueError(value) from None


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        number = int(value)
        if not low <= number <= high:
            raise ValueError(value)
        return number

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        number = float(value)
        if not low <= number <= high:  # False for nan, too
            raise ValueError(value)
        return number

    return parse


def _level(value: str) -> str:
    if value.upper() not in LOG_LEVELS:
        raise ValueError(value)
    return value.upper()


def base_url(value: str) -> str:
    """Reduce the accepted forms of `API_BASE_URL` to `scheme://host:port`.

    `http://host:port`, upstream's `http://host:port/sdapi/v1/`, and `host:port` are accepted.

    Raises:
        ValueError: it is none of them.
    """
    if _HOST_PORT.fullmatch(value.rstrip("/")):
        value = f"http://{value}"
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError(value)
    if parts.path.rstrip("/") not in ("", "/sdapi/v1") or parts.query or parts.fragment:
        raise ValueError(value)
    if parts.port == 0:  # `port` itself raises ValueError beyond 65535
        raise ValueError(value)
    return f"{parts.scheme}://{parts.netloc}"


def is_queue_url(value: str) -> bool:
    """Tell whether a value looks like a queue's URL."""
    parts = urlsplit(value)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and len(parts.path) > 1


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Build the settings from an environment; unknown variables are ignored.

    Raises:
        SettingsError: something is missing or bad; every such variable is named.
    """
    read = _Reader(environment)
    required = {name: read.required(name) for name in REQUIRED}
    url = required["API_BASE_URL"]
    settings = Settings(
        runtime_type=required["RUNTIME_TYPE"].lower(),
        runtime_name=required["RUNTIME_NAME"],
        api_base_url=read.parsed("API_BASE_URL", url, base_url, "http://host:port or host:port"),
        queue_url=required["SQS_QUEUE_URL"],
        topic_arn=required["SNS_TOPIC_ARN"],
        bucket=required["S3_BUCKET"],
        region=required["AWS_DEFAULT_REGION"],
        dynamic_models=read.parsed("DYNAMIC_SD_MODEL", False, _boolean, "true or false"),
        log_level=read.parsed("LOGLEVEL", "INFO", _level, f"one of {', '.join(LOG_LEVELS)}"),
        max_attempts=read.parsed("MAX_ATTEMPTS", 3, _whole(1, 100), "a whole number from 1 to 100"),
        task_timeout_seconds=read.parsed(
            "TASK_TIMEOUT_SECONDS", 3600.0, _seconds(1, MAX_TASK_TIMEOUT_SECONDS),
            f"a number of seconds from 1 to {MAX_TASK_TIMEOUT_SECONDS}",
        ),
        drain_seconds=read.parsed(
            "DRAIN_SECONDS", 90.0, _seconds(0, MAX_TASK_TIMEOUT_SECONDS),
            f"a number of seconds from 0 to {MAX_TASK_TIMEOUT_SECONDS}",
        ),
        notify_running=read.parsed("NOTIFY_RUNNING", False, _boolean, "true or false"),
        metrics_port=read.parsed("METRICS_PORT", None, _whole(1, 65535), "a port from 1 to 65535"),
        dead_letter_queue_url=read.text("DEAD_LETTER_QUEUE_URL"),
        task_table=read.text("TASK_TABLE"),
        input_allowlist=tuple(
            entry for part in read.text("INPUT_ALLOWLIST").split(",") if (entry := part.strip())
        ),
        stall_timeout_seconds=read.parsed(
            "STALL_TIMEOUT_SECONDS", 900.0, _seconds(1, MAX_TASK_TIMEOUT_SECONDS),
            f"a number of seconds from 1 to {MAX_TASK_TIMEOUT_SECONDS}",
        ),
        is_traced=_is_traced(read),
    )  # fmt: skip
    _check_forms(read, settings)
    if read.problems:
        raise SettingsError(read.problems)
    return settings


def _is_traced(read: _Reader) -> bool:
    """Tell whether spans are wanted: by OpenTelemetry's own variables, which its library reads itself."""
    # https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    is_off = read.text("OTEL_SDK_DISABLED").lower() == "true" or read.text("OTEL_TRACES_EXPORTER") == "none"
    return not is_off and any(map(read.text, endpoints))


def _check_forms(read: _Reader, settings: Settings) -> None:
    """Note what is there but cannot be right."""
    if settings.runtime_type and settings.runtime_type not in contract.RUNTIME_TYPES:
        from sdctl_agent.runtimes import runtime_types

        known = runtime_types()
        if settings.runtime_type not in known:
            read.problems.append(f'RUNTIME_TYPE: "{settings.runtime_type}" is not one of {", ".join(known)}')
    if settings.queue_url and not is_queue_url(settings.queue_url):
        read.problems.append(f'SQS_QUEUE_URL: "{settings.queue_url}" is not the URL of a queue')
    if settings.dead_letter_queue_url and not is_queue_url(settings.dead_letter_queue_url):
        read.problems.append(
            f'DEAD_LETTER_QUEUE_URL: "{settings.dead_letter_queue_url}" is not the URL of a queue'
        )
    if settings.topic_arn and not re.fullmatch(r"arn:[\w-]+:sns:[\w-]*:\d*:[\w.-]+", settings.topic_arn):
        read.problems.append(f'SNS_TOPIC_ARN: "{settings.topic_arn}" is not the ARN of a topic')
