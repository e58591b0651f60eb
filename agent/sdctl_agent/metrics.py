"""What the agent counts. Without `METRICS_PORT` nothing is imported and nothing is counted.

Names and units follow https://prometheus.io/docs/practices/naming/: base units, counters end in `_total`,
every series is there from the start so that a first increase is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from sdctl.contract import END_STATUSES

if TYPE_CHECKING:
    from sdctl_agent.runtimes.memory import Memory

PHASES: Final = ("queue", "run", "store")
EVENTS: Final = {
    "retry": ("retries", "Attempts that failed for a reason that may pass, and were counted."),
    "hand_back": ("hand_backs", "Tasks given back to the queue without counting an attempt."),
    "undecodable": ("undecodable_messages", "Messages that hold no task."),
    "model_switch": ("model_switches", "Tasks that made the runtime load another model."),
    "step_error": ("step_errors", "Failed calls to S3, SNS or the task table; each was made again."),
    "lost": ("lost_tasks", "Tasks left to others because visibility or claim could not be kept."),
    "memory_freed": ("runtime_memory_freed", "Times the runtime was asked to free its memory."),
}
# From a tenth of a second (a thumbnail) to an hour (the default time limit of a task).
BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class Metrics(Protocol):
    """What the agent counts."""

    def task_ended(self, status: str) -> None:
        """Count a task by its end status."""
        ...

    def observe(self, phase: str, seconds: float) -> None:
        """Add the seconds that one task spent in one of `PHASES`."""
        ...

    def count(self, event: str) -> None:
        """Count one of `EVENTS`."""
        ...

    def in_flight(self, messages: int) -> None:
        """Set how many messages are held."""
        ...

    def runtime_up(self, is_up: bool) -> None:
        """Set whether the runtime answers."""
        ...

    def runtime_memory(self, memory: Memory, growth_bytes_per_task: float) -> None:
        """Set what the runtime's server said of its memory, and how that grows."""
        ...

    def watch_gpu(self, busy_seconds: Callable[[], float]) -> None:
        """Read from here, when asked, for how long tasks have been on the runtime so far."""
        ...


class NoMetrics:
    """Counts nothing."""

    def task_ended(self, status: str) -> None:
        """Ignore it."""

    def observe(self, phase: str, seconds: float) -> None:
        """Ignore it."""

    def count(self, event: str) -> None:
        """Ignore it."""

    def in_flight(self, messages: int) -> None:
        """Ignore it."""

    def runtime_up(self, is_up: bool) -> None:
        """Ignore it."""

    def runtime_memory(self, memory: Memory, growth_bytes_per_task: float) -> None:
        """Ignore it."""

    def watch_gpu(self, busy_seconds: Callable[[], float]) -> None:
        """Ignore it."""


class PrometheusMetrics:
    """Counts in a registry of its own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # the agent's own memory, CPU time and open files
        tasks = Counter("sd_agent_tasks", "Tasks by end status.", ["status"], registry=registry)
        self._tasks: Any = {status: tasks.labels(status) for status in sorted(END_STATUSES)}
        phases = Histogram(
            "sd_agent_phase_seconds",
            "Seconds from submit to the runtime's start (queue), on the runtime (run), uploading (store).",
            ["phase"],
            registry=registry,
            buckets=BUCKETS,
        )
        self._phases: Any = {phase: phases.labels(phase) for phase in PHASES}
        self._events: Any = {
            event: Counter(f"sd_agent_{name}", text, registry=registry)
            for event, (name, text) in EVENTS.items()
        }
        self._in_flight: Any = Gauge(
            "sd_agent_in_flight_messages", "Messages received and not yet settled.", registry=registry
        )
        self._up: Any = Gauge(
            "sd_agent_runtime_up", "1 while the runtime answers and is not stuck, else 0.", registry=registry
        )
        self._memory: Any = {
            name: Gauge(f"sd_agent_runtime_memory_{name}", text, ["kind"], registry=registry)
            for name, text in (
                ("used_bytes", "Memory in use as the runtime's server tells it: ram, vram."),
                ("total_bytes", "Memory that there is as the runtime's server tells it: ram, vram."),
            )
        }
        self._growth: Any = Gauge(
            "sd_agent_runtime_memory_growth_bytes_per_task",
            "How much the lowest RAM figures rose a task over the last readings; 0 where they did not.",
            registry=registry,
        )

    def task_ended(self, status: str) -> None:
        """Count a task by its end status."""
        self._tasks[status].inc()

    def observe(self, phase: str, seconds: float) -> None:
        """Add the seconds that one task spent in a phase."""
        self._phases[phase].observe(seconds)

    def count(self, event: str) -> None:
        """Count one event."""
        self._events[event].inc()

    def in_flight(self, messages: int) -> None:
        """Set how many messages are held."""
        self._in_flight.set(messages)

    def runtime_up(self, is_up: bool) -> None:
        """Set whether the runtime answers."""
        self._up.set(1 if is_up else 0)

    def runtime_memory(self, memory: Memory, growth_bytes_per_task: float) -> None:
        """Set what the runtime's server said of its memory, and how that grows."""
        for kind, used, total in (
            ("ram", memory.ram_used_bytes, memory.ram_total_bytes),
            ("vram", memory.vram_used_bytes, memory.vram_total_bytes),
        ):
            if total:
                self._memory["used_bytes"].labels(kind).set(used)
                self._memory["total_bytes"].labels(kind).set(total)
        self._growth.set(growth_bytes_per_task)

    def watch_gpu(self, busy_seconds: Callable[[], float]) -> None:
        """Offer the busy seconds as a counter: its rate over any time is the GPU-busy share of that time."""
        from prometheus_client.core import CounterMetricFamily
        from prometheus_client.registry import Collector

        class BusySeconds(Collector):
            def collect(self) -> list[CounterMetricFamily]:
                text = "Seconds with a task on the runtime; its rate() is the GPU-busy share, from 0 to 1."
                return [CounterMetricFamily("sd_agent_gpu_busy_seconds", text, value=busy_seconds())]

        self._registry.register(BusySeconds())

    def exposition(self, accept: str) -> tuple[str, bytes]:
        """Render everything: the content type that fits the request's `Accept`, and the text."""
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)
