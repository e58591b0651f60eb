"""What each of the chart's choices is worth: one changed at a time, over all workloads and some seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from .choices import Budget, Choices, Policy
from .farm import Outcome, simulate
from .timings import Timings
from .workloads import WORKLOADS

GUARDED = Budget("20%", ("Drifted", "Underutilized"))


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over seeds; seconds, tasks, US dollars a million tasks."""

    first_image_seconds: float
    p95_wait_seconds: float
    idle_gpu_hours: float
    interrupted: float
    lost_with_node: float
    ran_twice: float
    failed: float
    dollars_per_million: float


def measure(
    choices: Choices,
    workload: str,
    seeds: Sequence[int],
    *,
    tasks: int | None = None,
    timings: Timings | None = None,
) -> Figures:
    """Return the means of a workload's outcomes."""
    make = partial(WORKLOADS[workload], **({"tasks": tasks} if tasks else {}))
    outcomes: list[Outcome] = [simulate(choices, make(seed), seed=seed, timings=timings) for seed in seeds]
    return Figures(*(statistics.fmean(getattr(one, name) for one in outcomes) for name in Figures.__slots__))


def variants(base: Choices) -> Iterator[tuple[str, list[Choices]]]:
    """Yield each value that is tried, by the value's name in the chart."""

    def named(name: str, **changes: object) -> Choices:
        return replace(base, name=name, **changes)  # type: ignore[arg-type]

    yield "scaling.queueLength", [named(str(one), queue_length=one) for one in (5, 10, 20, 40, 80)]
    yield "scaling.pollingInterval", [named(str(one), polling_seconds=one) for one in (1, 5, 10, 30)]
    yield "scaling.cooldownPeriod", [named(str(one), cooldown_seconds=one) for one in (30, 60, 120, 300, 600)]
    yield (
        "scaling.scaleDownStabilizationSeconds",
        [named(str(one), stabilization_seconds=one) for one in (30, 60, 120, 300, 600)],
    )
    yield (
        "scaling.scaleDownPodsPerMinute",
        [named(str(one), scale_down=(Policy("Pods", one, 60),)) for one in (1, 2, 5, 20)],
    )
    yield (
        "scaling.scaleOnInFlight",
        [named("true", counts_running=True), named("counted as waiting", counts_running=False)],
    )
    yield "deletionCost.enabled", [named(str(one).lower(), idle_pods_go_first=one) for one in (False, True)]
    yield (
        "disruption.consolidateAfter",
        [named(f"{one}s", consolidate_after_seconds=one) for one in (0, 30, 60, 120, 300)],
    )
    yield (
        "disruption.budgets",
        [
            named("10%", budgets=(Budget("10%"),)),
            named("20%", budgets=(Budget("20%"),)),
            named("empty 100%", budgets=(Budget("100%", ("Empty",)), GUARDED)),
        ],
    )
    yield (
        "disruption.terminationGracePeriod",
        [
            named(text, node_grace_seconds=one)
            for text, one in (("none", None), ("30m", 1800), ("grace + 5 s", base.grace_seconds + 5))
        ],
    )
    yield (
        "nodeTemplate.imageCache",
        [
            named("none", image_cache="none", has_local_disks=True),
            named("soci", image_cache="soci", has_local_disks=True),
            *(
                named(
                    f"snapshot, {rate or 'no'} rate, {volume} MiB/s",
                    image_cache="snapshot",
                    has_local_disks=False,
                    initialization_mib_per_second=rate,
                    volume_mib_per_second=volume,
                )
                for rate, volume in ((0, 125), (100, 125), (300, 125), (300, 500))
            ),
        ],
    )
