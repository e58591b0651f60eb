"""What a step is carried out with: the doors to AWS, the outputs so far, time that stops, and a voice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event as Flag
from typing import TYPE_CHECKING, TypeVar

from sdctl.clients.aws import Aws
from sdctl.clients.cloudformation import CloudFormation, StackEvent
from sdctl.clients.s3 import S3
from sdctl.deploy.steps import Event, Step
from sdctl.polling import REAL_CLOCK, Clock, Pace, poll

if TYPE_CHECKING:
    from sdctl.deploy.release_steps import Releases

T = TypeVar("T")
Outputs = Mapping[str, Mapping[str, str]]


class StoppedError(Exception):
    """Everything stops: this step's wait was ended, and what it waited for goes on without us."""


def stoppable(clock: Clock, stop: Flag) -> Clock:
    """Return a clock whose sleep ends at once, with StoppedError, when the flag is set."""

    def sleep(seconds: float) -> None:
        if clock is not REAL_CLOCK:
            clock.sleep(seconds)  # a test's own time
        elif stop.wait(seconds):
            raise StoppedError
        if stop.is_set():
            raise StoppedError

    return Clock(clock.monotonic, sleep, clock.uniform)


@dataclass(frozen=True, slots=True)
class StepContext:
    """What the handler of one step gets; safe to share between threads.

    `outputs` has the outputs of every stack that is done, by stack name. `clock` is the one to sleep on:
    it raises StoppedError when everything stops. `releases` is there where the deployment has a cluster.
    """

    step: str
    aws: Aws
    s3: S3
    cloudformation: CloudFormation
    outputs: Outputs
    clock: Clock
    pace: Pace
    timeout_seconds: float
    tell: Callable[[Event], None]
    new_name: Callable[[], str]
    releases: Releases | None = None

    def waiting(self, reason: str) -> None:
        """Say what the step waits for."""
        self.tell(Event(self.step, "waiting", reason=reason))

    def resource(self, event: StackEvent) -> None:
        """Pass on what happened to a resource."""
        self.tell(Event(self.step, event.status, event.resource, event.type, event.reason))

    def poll(
        self,
        probe: Callable[[], T | None],
        *,
        awaited: str,
        timeout_seconds: float | None = None,
        state: Callable[[], str] | None = None,
    ) -> T:
        """Ask at this deployment's pace until `probe` returns something, see `sdctl.polling.poll`."""
        return poll(
            probe,
            awaited=awaited,
            timeout_seconds=self.timeout_seconds if timeout_seconds is None else timeout_seconds,
            pace=self.pace,
            state=state,
            clock=self.clock,
        )


Handler = Callable[[Step, StepContext], None]
