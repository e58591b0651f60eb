"""What goes wrong while a command works: each mishap strikes at one exact call, or fails one resource.

Some the command itself gets over; after all others the same command, given again, must go on to the same end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from support.aws_faults import ResourceFault
from support.aws_proxy import Effect, Rule
from support.aws_world import Running, World
from support.cli import Ran
from support.kubernetes_api import Request
from support.kubernetes_store import StatusError

Kind = Literal["throttled", "dropped", "lost", "expired", "denied", "interrupted", "killed", "failed"]
# How a call to AWS is spoiled, and how often; without a number until everything is well again.
_EFFECTS: Final[dict[Kind, tuple[Effect, int | None]]] = {
    "throttled": ("throttle", 2), "dropped": ("drop", 2), "lost": ("lose", 1), "expired": ("expired", None),
    "denied": ("denied", None), "interrupted": ("none", 1), "killed": ("none", 1), "failed": ("none", 1),
}  # fmt: skip
SURVIVED: Final = frozenset({"throttled", "dropped", "lost"})
# What AWS works on goes on for so long after the command was ended.
_OUTLASTING_SECONDS: Final = 0.8


@dataclass(frozen=True, slots=True)
class AwsCall:
    """A call to AWS: the first that fits. Of a stack's, `resource` is what fails where something must."""

    service: str
    operation: str
    contains: str = ""
    resource: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.service, self.operation, self.contains)))


@dataclass(frozen=True, slots=True)
class ClusterCall:
    """A request to the cluster: the first that fits, by method and a part of its path."""

    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


Place = AwsCall | ClusterCall


@dataclass(slots=True)
class Mishap:
    """A kind of mishap at a place; `has_happened` tells afterwards whether it came to it."""

    kind: Kind
    place: Place
    has_happened: bool = field(default=False, init=False)

    def __str__(self) -> str:
        return f"{self.kind} at {self.place}"

    @property
    def can_happen(self) -> bool:
        """Tell whether this kind of mishap exists at this place."""
        if isinstance(self.place, ClusterCall):
            return self.kind in ("denied", "interrupted", "killed")
        if self.kind == "interrupted" and self.place.operation == "CreateChangeSet":
            return False  # what is prepared is begun before the interrupt ends the wait for it
        return self.kind != "failed" or bool(self.place.resource)

    def arm(self, world: World, running: list[Running]) -> None:
        """Let it happen to the command that `running` will hold."""

        def happen() -> None:
            self.has_happened = True
            if isinstance(self.place, AwsCall):
                world.set_faults(self._faults(self.place))
            if self.kind == "interrupted":
                running[0].interrupt()
            elif self.kind == "killed":
                running[0].kill()

        if isinstance(self.place, ClusterCall):
            world.api.intercept = self._interception(self.place, happen)
        else:
            world.proxy.rules.append(self._rule(self.place, happen))

    def _rule(self, place: AwsCall, happen: Callable[[], None]) -> Rule:
        effect, times = _EFFECTS[self.kind]
        return Rule(effect, place.service, place.operation, place.contains, times=times, then=happen)

    def _faults(self, place: AwsCall) -> list[ResourceFault]:
        if place.service != "cloudformation":
            return []
        if self.kind == "failed":
            reason = "Resource handler returned message: no (HandlerErrorCode: GeneralServiceException)"
            return [ResourceFault(place.contains, place.resource, reason=reason)]
        if self.kind in ("interrupted", "killed"):
            return [ResourceFault(place.contains, delay_seconds=_OUTLASTING_SECONDS)]
        return []

    def _interception(self, place: ClusterCall, happen: Callable[[], None]) -> Callable[[Request], None]:
        def intercept(request: Request) -> None:
            fits = request.method == place.method and place.path in request.path
            if not fits or (self.has_happened and self.kind != "denied"):
                return
            happen()
            if self.kind == "denied":
                raise StatusError(403, "Forbidden", f"{request.path} is forbidden: by the test")

        return intercept


def strike(world: World, words: tuple[str, ...], *mishaps: Mishap) -> Ran:
    """Run a command with mishaps, of which one at most is in the cluster; all is well when it has ended."""
    running: list[Running] = []
    for mishap in mishaps:
        mishap.arm(world, running)
    running.append(world.start(*words))
    try:
        return running[0].end()
    finally:
        world.proxy.rules.clear()
        world.set_faults()
        world.api.intercept = lambda request: None
