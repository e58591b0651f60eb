"""The deployment's CloudWatch dashboard. It finds the runtimes' queues itself, and so names none of them."""

from __future__ import annotations

import json
import re
from typing import Any, Final

WIDTH: Final = 24
HEIGHT: Final = 6
PERIOD_SECONDS: Final = 300
_REGION: Final = "${AWS::Region}"


def dashboard_body(
    stack_prefix: str, stage_name: str, functions: dict[str, str], *, spot_rule: str = ""
) -> str:
    """Render the dashboard's JSON, with the template's own names in it as `Fn::Sub` takes them.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CloudWatch-Dashboard-Body-Structure.html

    Args:
        stack_prefix: what the names of the runtimes' stacks begin with.
        stage_name: of the API.
        functions: resource of each function by its title.
        spot_rule: name of the rule that hears of Spot's notices; empty where there are no nodes.
    """
    rows = [
        [
            _graph("Requests and errors", _api(stage_name, "Sum", "Count", "4XXError", "5XXError")),
            _graph("Time to answer, ms", _api(stage_name, "p95", "Latency", "IntegrationLatency")),
        ],
        [
            _graph("Tasks that wait", [_queues(stack_prefix, "ApproximateNumberOfMessagesVisible")]),
            _graph("Tasks that run", [_queues(stack_prefix, "ApproximateNumberOfMessagesNotVisible")]),
            _graph("Oldest task, seconds", [_queues(stack_prefix, "ApproximateAgeOfOldestMessage")]),
        ],
        [
            _graph("Dead letters", [_queues(stack_prefix, "NumberOfMessagesReceived", dead_letters=True)]),
            _graph("Messages that match no runtime", [_unrouted()]),
            _graph("Errors of functions", [
                ["AWS/Lambda", "Errors", "FunctionName", f"${{{resource}}}", {"label": title, "stat": "Sum"}]
                for title, resource in functions.items()
            ]),
        ],
    ]  # fmt: skip
    if spot_rule:
        notices = ["AWS/Events", "Invocations", "RuleName", spot_rule, {"stat": "Sum"}]
        rows.append([_graph("Instances of this region that Spot takes back", [notices])])
    widgets = [
        {
            "type": "metric", "x": WIDTH // len(row) * column, "y": HEIGHT * number,
            "width": WIDTH // len(row), "height": HEIGHT, "properties": properties,
        }
        for number, row in enumerate(rows)
        for column, properties in enumerate(row)
    ]  # fmt: skip
    return json.dumps({"widgets": widgets}, separators=(",", ":"))


def _graph(title: str, metrics: list[list[Any]]) -> dict[str, Any]:
    return {
        "title": title, "region": _REGION, "view": "timeSeries", "period": PERIOD_SECONDS, "metrics": metrics,
    }  # fmt: skip


def _api(stage_name: str, statistic: str, *metrics: str) -> list[list[Any]]:
    where = ["ApiName", "${AWS::StackName}", "Stage", stage_name]
    return [["AWS/ApiGateway", metric, *where, {"stat": statistic}] for metric in metrics]


def _unrouted() -> list[Any]:
    queue = "${UnroutedQueue.QueueName}"
    return ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", queue, {"stat": "Maximum"}]


def _queues(stack_prefix: str, metric: str, *, dead_letters: bool = False) -> list[Any]:
    """Search for one metric of all runtimes' queues, by the words in their names.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/search-expression-syntax.html
    """
    words = " ".join(f"QueueName={word}" for word in re.findall("[A-Za-z0-9]+", stack_prefix))
    kind = "QueueName=DeadLetterQueue" if dead_letters else "NOT QueueName=DeadLetterQueue"
    statistic = "Sum" if dead_letters else "Maximum"
    search = f'{{AWS/SQS,QueueName}} {words} {kind} MetricName="{metric}"'
    return [{"expression": f"SEARCH('{search}', '{statistic}', {PERIOD_SECONDS})", "id": "queues"}]
