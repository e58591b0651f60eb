"""The progress of a plan on stderr: a live table on a terminal, plain lines elsewhere.

Events come from many threads, one call at a time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sdctl.cli import context, output

if TYPE_CHECKING:
    from sdctl.deploy.steps import Event, Plan, Step

_REFRESHES_A_SECOND: Final = 4
_REASON_CHARACTERS: Final = 300


@contextmanager
def progress(plan: Plan) -> Iterator[Progress]:
    """Show how a plan is carried out, for as long as the body runs."""
    shown = Progress(plan)
    options = context.current()
    if options.quiet or options.verbose or not sys.stderr.isatty():
        yield shown
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    with Live(
        get_renderable=shown.table, console=console, refresh_per_second=_REFRESHES_A_SECOND, transient=True
    ):
        shown.print_line = lambda text: console.print(text, markup=False, highlight=False)
        try:
            yield shown
        finally:
            shown.print_line = output.note


@dataclass(slots=True)
class _Running:
    step: Step
    since: float
    last: str = ""


@dataclass(slots=True)
class Progress:
    """Turns events into lines; `report` is what an executor is given.

    `running` and `stopped` are by step id; `stopped` has the last news of each.
    """

    plan: Plan
    print_line: Any = output.note
    running: dict[str, _Running] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)

    def report(self, event: Event) -> None:
        """Take one event."""
        if event.resource:
            self._resource(event)
            return
        reason = output.printable(event.reason)[:_REASON_CHARACTERS]
        match event.status:
            case "started":
                step = next(step for step in self.plan if step.id == event.step)
                self.running[event.step] = _Running(step, time.monotonic())
                self.print_line(f"{event.step}: {step.action} {step.detail}{_expected(step)}")
            case "waiting":
                self._last(event.step, f"waits for {reason}")
                self.print_line(f"{event.step}: waits for {reason}")
            case "done":
                self.print_line(f"{event.step}: done after {self._seconds(event)}")
            case "failed":
                self._seconds(event)
                self.print_line(f"{event.step}: failed: {reason}")
            case "stopped":
                one = self.running.pop(event.step, None)
                self.stopped[event.step] = one.last if one else ""
            case _:
                output.detail(f"{event.step}: {event.status}")

    def table(self) -> Any:
        """Draw what runs at this moment: how long, how long it is expected to, and its last news."""
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        for one in list(self.running.values()):
            spent = in_clock(time.monotonic() - one.since)
            expected = f"of about {one.step.minutes:.0f} min" if one.step.minutes >= 1 else ""
            last = Text(one.last, no_wrap=True, overflow="ellipsis")
            grid.add_row(Text(one.step.id, style="bold"), Text(spent), Text(expected), last)
        return grid

    def _resource(self, event: Event) -> None:
        text = f"{event.resource} ({event.type}) {event.status}"
        reason = output.printable(event.reason)
        self._last(event.step, text)
        if event.status.endswith("_FAILED"):
            self.print_line(f"  {event.step}: {text}: {reason}"[: 2 * _REASON_CHARACTERS])
        elif not event.status.endswith("_IN_PROGRESS"):
            one = self.running.get(event.step)
            spent = f" after {in_clock(time.monotonic() - one.since)}" if one else ""
            self.print_line(f"  {event.step}: {text}{spent}")

    def _last(self, step_id: str, text: str) -> None:
        if step_id in self.running:
            self.running[step_id].last = text

    def _seconds(self, event: Event) -> str:
        one = self.running.pop(event.step, None)
        return in_clock(time.monotonic() - one.since) if one else in_clock(event.elapsed_seconds)


def _expected(step: Step) -> str:
    return f" (about {step.minutes:.0f} min)" if step.minutes >= 1 else ""


def in_clock(seconds: float) -> str:
    """Say a duration, as `0.4 s`, `12 s` or `3:07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{int(seconds // 60)}:{int(seconds % 60):02d} min"
