"""Prometheus metrics on `METRICS_PORT`; without that setting nothing is imported and nothing is counted."""

from __future__ import annotations

from typing import Any, Protocol


class Metrics(Protocol):
    """What the agent counts."""

    def task_ended(self, status: str) -> None:
        """Count a task by its end status."""
        ...

    def observe(self, phase: str, seconds: float) -> None:
        """Add the seconds that one task spent in a phase: `queue`, `run` or `store`."""
        ...

    def count(self, event: str) -> None:
        """Count one event: `retry`, `hand_back`, `undecodable`, `model_switch`, `step_error`, `lost`."""
        ...

    def in_flight(self, messages: int) -> None:
        """Set how many messages are held."""
        ...

    def runtime_up(self, is_up: bool) -> None:
        """Set whether the runtime answers."""
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


class PrometheusMetrics:
    """Counts in a registry of its own and serves it over HTTP."""

    def __init__(self, port: int, *, host: str = "0.0.0.0") -> None:  # noqa: S104 - scraped from outside the pod
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

        registry = CollectorRegistry()
        buckets = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
        self._tasks: Any = Counter("sd_agent_tasks", "Tasks by end status.", ["status"], registry=registry)
        self._phases: Any = Histogram(
            "sd_agent_phase_seconds", "Seconds a task spent in a phase.", ["phase"], registry=registry,
            buckets=buckets,
        )  # fmt: skip
        self._events: Any = Counter("sd_agent_events", "Events by kind.", ["event"], registry=registry)
        # Its rate is the share of time that the GPU was busy with this agent's tasks.
        self._busy: Any = Counter(
            "sd_agent_gpu_busy_seconds", "Seconds with a task running.", registry=registry
        )
        self._in_flight: Any = Gauge("sd_agent_in_flight_messages", "Messages held.", registry=registry)
        self._up: Any = Gauge("sd_agent_runtime_up", "1 while the runtime answers.", registry=registry)
        self._server, self._thread = start_http_server(port, host, registry=registry)

    def task_ended(self, status: str) -> None:
        """Count a task by its end status."""
        self._tasks.labels(status).inc()

    def observe(self, phase: str, seconds: float) -> None:
        """Add the seconds that one task spent in a phase."""
        self._phases.labels(phase).observe(seconds)
        if phase == "run":
            self._busy.inc(seconds)

    def count(self, event: str) -> None:
        """Count one event."""
        self._events.labels(event).inc()

    def in_flight(self, messages: int) -> None:
        """Set how many messages are held."""
        self._in_flight.set(messages)

    def runtime_up(self, is_up: bool) -> None:
        """Set whether the runtime answers."""
        self._up.set(1 if is_up else 0)
