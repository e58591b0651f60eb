"""Settings: what is accepted, and that everything wrong is named at once."""

from __future__ import annotations

import pytest

from sdctl_agent.errors import SettingsError
from sdctl_agent.settings import REQUIRED, load_settings

GOOD = {
    "RUNTIME_TYPE": "SDWebUI",
    "RUNTIME_NAME": "main",
    "API_BASE_URL": "http://localhost:8080",
    "SQS_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/1/q",
    "SNS_TOPIC_ARN": "arn:aws-cn:sns:cn-north-1:123456789012:results",
    "S3_BUCKET": "bucket",
    "AWS_DEFAULT_REGION": "cn-north-1",
}


def problems_of(environment: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environment)
    return caught.value.problems


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = load_settings(GOOD | {"SOMETHING_ELSE": "ignored"})
    assert settings.runtime_type == "sdwebui"
    assert (settings.max_attempts, settings.task_timeout_seconds, settings.drain_seconds) == (3, 3600, 90)
    assert (settings.dynamic_models, settings.notify_running, settings.metrics_port) == (False, False, None)
    assert (settings.dead_letter_queue_url, settings.task_table, settings.input_allowlist) == ("", "", ())
    assert settings.log_level == "INFO"


def test_every_missing_variable_is_named_at_once() -> None:
    assert problems_of({}) == [f"{name} is required" for name in REQUIRED]


def test_an_empty_variable_is_a_missing_one() -> None:
    assert problems_of(GOOD | {"S3_BUCKET": "  "}) == ["S3_BUCKET is required"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("http://10.0.0.1:8080", "http://10.0.0.1:8080"),
        ("http://localhost:7860/", "http://localhost:7860"),
        ("http://localhost:8080/sdapi/v1/", "http://localhost:8080"),
        ("http://localhost:8080/sdapi/v1", "http://localhost:8080"),
        ("localhost:8188", "http://localhost:8188"),
        ("[::1]:8188", "http://[::1]:8188"),
    ],
)
def test_all_forms_of_the_base_url_are_reduced_to_one(value: str, expected: str) -> None:
    assert load_settings(GOOD | {"API_BASE_URL": value}).api_base_url == expected


@pytest.mark.parametrize(
    "value",
    ["ftp://host:1", "http://", "host", "http://host:99999", "http://host/other", "http://u:p@host:1"],
)
def test_another_base_url_is_refused(value: str) -> None:
    (problem,) = problems_of(GOOD | {"API_BASE_URL": value})
    assert problem.startswith("API_BASE_URL")


def test_all_bad_values_are_named_with_what_is_allowed() -> None:
    bad = {
        "RUNTIME_TYPE": "toaster", "SQS_QUEUE_URL": "queue", "SNS_TOPIC_ARN": "topic", "LOGLEVEL": "LOUD",
        "MAX_ATTEMPTS": "0", "TASK_TIMEOUT_SECONDS": "nan", "DRAIN_SECONDS": "-1", "NOTIFY_RUNNING": "maybe",
        "METRICS_PORT": "70000", "DYNAMIC_SD_MODEL": "2", "DEAD_LETTER_QUEUE_URL": "nowhere",
    }  # fmt: skip
    problems = problems_of(GOOD | bad)
    assert {problem.split(":")[0] for problem in problems} == set(bad)
    assert any("comfyui" in problem for problem in problems)


def test_the_allowlist_is_split_at_commas() -> None:
    settings = load_settings(GOOD | {"INPUT_ALLOWLIST": "10.0.0.0/8, s3://other ,,host:9000"})
    assert settings.input_allowlist == ("10.0.0.0/8", "s3://other", "host:9000")
