"""The alarms of front and runtimes: for whatever could pile up, fail or be lost without anybody seeing it.

One metric each, without metric math: the local target's emulator applies the same template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

# The intake queue is emptied within seconds; by then its function has failed many times.
INTAKE_AGE_SECONDS: Final = 900
# Longer than a dead letter stays invisible between two looks: the alarm stays up while one is left.
DEAD_LETTER_PERIOD_SECONDS: Final = 600
# Nodes and models are there long before.
LONG_WAIT_SECONDS: Final = 3600
# Spot takes a node back now and then; with more than these in an hour, on-demand may be the better deal.
SPOT_INTERRUPTIONS: Final = 5
SPOT_PERIOD_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm: it rises when the metric of one thing is above `threshold` for a period."""

    logical: str
    description: str
    namespace: str
    metric: str
    dimensions: dict[str, Any]
    statistic: str = "Sum"
    threshold: int = 0
    period_seconds: int = 300


def front_alarms(functions: Sequence[str], *, spot_rule: str = "") -> list[Alarm]:
    """Return the alarms of a front.

    Args:
        functions: logical names of the functions.
        spot_rule: name of the EventBridge rule that hears of Spot's notices; empty where there are no nodes.
    """
    alarms = [
        _queue_alarm(
            "UnroutedQueue", "Messages that match no runtime, or that no queue took",
            "ApproximateNumberOfMessagesVisible", statistic="Maximum",
        ),
        _queue_alarm(
            "IntakeQueue", "Nobody looks for messages that match no runtime",
            "ApproximateAgeOfOldestMessage", statistic="Maximum", threshold=INTAKE_AGE_SECONDS,
        ),
    ]  # fmt: skip
    alarms += [
        Alarm(
            f"{function}FunctionAlarm", f"Function {function} fails", "AWS/Lambda", "Errors",
            {"FunctionName": {"Ref": f"{function}Function"}},
        )
        for function in functions
    ]  # fmt: skip
    api = {"ApiName": {"Ref": "AWS::StackName"}, "Stage": {"Ref": "ApiStage"}}
    alarms.append(
        Alarm("RestApiAlarm", "The task API answers server errors", "AWS/ApiGateway", "5XXError", api)
    )
    if spot_rule:
        # https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-monitoring.html
        alarms.append(
            Alarm(
                "SpotInterruptionsAlarm", "Spot takes many instances of this region back",
                "AWS/Events", "Invocations", {"RuleName": spot_rule},
                threshold=SPOT_INTERRUPTIONS, period_seconds=SPOT_PERIOD_SECONDS,
            )
        )  # fmt: skip
    return alarms


def runtime_alarms(task_timeout_seconds: int) -> list[Alarm]:
    """Return the alarms of a runtime's stack.

    Args:
        task_timeout_seconds: how long one task may run; until it ends its message is in the queue.
    """
    return [
        # A function takes dead letters away at once: they are seen as they are received.
        _queue_alarm(
            "DeadLetterQueue", "Dead letters", "NumberOfMessagesReceived",
            period_seconds=DEAD_LETTER_PERIOD_SECONDS,
        ),
        # Where the function's mapping is off nobody receives them: they are seen as they lie there.
        _queue_alarm(
            "DeadLetterQueue", "Dead letters that nobody takes away", "ApproximateNumberOfMessagesVisible",
            logical="DeadLettersStayAlarm", statistic="Maximum",
        ),
        _queue_alarm(
            "Queue", "Tasks wait for long, or nobody takes them", "ApproximateAgeOfOldestMessage",
            statistic="Maximum", threshold=task_timeout_seconds + LONG_WAIT_SECONDS,
        ),
    ]  # fmt: skip


def _queue_alarm(queue: str, description: str, metric: str, *, logical: str = "", **more: Any) -> Alarm:
    dimensions = {"QueueName": {"Fn::GetAtt": [queue, "QueueName"]}}
    return Alarm(logical or f"{queue}Alarm", description, "AWS/SQS", metric, dimensions, **more)
