"""The agent's README says what its code does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from sdctl_agent.metrics import PrometheusMetrics
from sdctl_agent.runtimes.memory import Memory
from sdctl_agent.settings import REQUIRED, Settings, load_settings

README = Path(__file__).parents[3] / "agent" / "README.md"
DEFAULTS = {
    "DYNAMIC_SD_MODEL": "dynamic_models", "MAX_ATTEMPTS": "max_attempts", "LOGLEVEL": "log_level",
    "TASK_TIMEOUT_SECONDS": "task_timeout_seconds", "STALL_TIMEOUT_SECONDS": "stall_timeout_seconds",
    "DRAIN_SECONDS": "drain_seconds", "NOTIFY_RUNNING": "notify_running", "METRICS_PORT": "metrics_port",
    "TASK_TABLE": "task_table", "DEAD_LETTER_QUEUE_URL": "dead_letter_queue_url",
    "INPUT_ALLOWLIST": "input_allowlist",
}  # fmt: skip


class Asked(Mapping[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, values: dict[str, str]) -> None:
        self.names: set[str] = set()
        self._values = values

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def loaded() -> tuple[Settings, set[str]]:
    environment = Asked(
        {
            "RUNTIME_TYPE": "sdwebui", "RUNTIME_NAME": "main", "API_BASE_URL": "http://localhost:8080",
            "SQS_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/1/q", "S3_BUCKET": "bucket",
            "SNS_TOPIC_ARN": "arn:aws:sns:us-east-1:123456789012:t", "AWS_DEFAULT_REGION": "us-east-1",
        }
    )  # fmt: skip
    return load_settings(environment), environment.names


def table(heading: str) -> dict[str, list[str]]:
    """Return the cells of a section's last table by the first cell's code."""
    section = README.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| \n").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_the_settings_table_names_every_variable_that_is_read_and_no_other() -> None:
    assert set(table("Settings")) == loaded()[1]


def told_as(value: object) -> str:
    """Return how the table tells a default."""
    match value:
        case bool():
            return f"`{str(value).lower()}`"
        case int() | float():
            return f"`{value:g}`"
        case str() if value:
            return f"`{value}`"
        case _:
            return "none"


def test_the_settings_table_tells_the_defaults() -> None:
    rows, (settings, _) = table("Settings"), loaded()
    assert {name for name, cells in rows.items() if cells[0].startswith("required")} == set(REQUIRED)
    for name, attribute in DEFAULTS.items():
        assert rows[name][0] == told_as(getattr(settings, attribute)), name


def test_the_metrics_table_names_every_metric_and_its_type() -> None:
    metrics = PrometheusMetrics()
    metrics.watch_gpu(lambda: 1.0)
    metrics.runtime_memory(Memory(1, 2, 3, 4), 5.0)
    text = metrics.exposition("")[1].decode()
    served = dict(re.findall(r"^# TYPE (sd_agent_\w+) (counter|gauge|histogram)$", text, re.MULTILINE))
    served = {name: kind for name, kind in served.items() if not name.endswith("_created")}
    told = {
        name.split("{")[0]: cells[0]
        for name, cells in table("Metrics and probes").items()
        if "sd_agent" in name
    }
    assert told == served
