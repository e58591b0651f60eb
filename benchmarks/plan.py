"""How long `sdctl deploy --plan` takes for 10, 25 and 50 runtimes on the emulator, process start included.

Before anything is deployed, and (with `--deployed`, some minutes) when every runtime is. Goals: below five
seconds for 50, and each runtime costs what the one before did. Run: `python benchmarks/plan.py`.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.aws_world import World, aws_world

SIZES = (10, 25, 50)
ROUNDS = 5
BOUND_SECONDS = 5.0
# Of what a runtime more costs from 25 on, to what it costs before.
SLOPE_BOUND = 2.0


def runtimes(count: int) -> list[dict[str, str]]:
    """Configure some runtimes of both types."""
    types = ("sdwebui", "comfyui")
    return [
        {"name": f"r{number}", "namespace": f"r{number}", "type": types[number % 2]}
        for number in range(count)
    ]


def planned(world: World, count: int) -> tuple[float, float]:
    """Plan some runtimes; return the fewest seconds by the clock, and of the processor."""
    world.write_config(modelsRuntime=runtimes(count))
    times = []
    for _ in range(ROUNDS):
        started, before = time.perf_counter(), cpu_seconds()
        ran = world.run("deploy", "--plan", "-o", "json")
        times.append((time.perf_counter() - started, cpu_seconds() - before))
        if ran.code != 0:
            raise SystemExit(ran.stderr)
    return min(wall for wall, _ in times), min(cpu for _, cpu in times)


def cpu_seconds() -> float:
    """Return the processor time of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def deployed(world: World, count: int) -> None:
    """Deploy some runtimes."""
    world.write_config(modelsRuntime=runtimes(count))
    ran = world.start("deploy", "--yes", "--skip-doctor").end(900)
    if ran.code != 0:
        raise SystemExit(ran.stderr)


def main() -> int:
    """Print the figures; exit 1 where one is above its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deployed", action="store_true", help="deploy them before they are planned")
    arguments = parser.parse_args()
    walls, cpus = {}, {}
    with (
        tempfile.TemporaryDirectory(prefix="sdctl-plan.") as folder,
        aws_world(Path(folder) / "world") as world,
    ):
        for count in SIZES:
            if arguments.deployed:
                deployed(world, count)
            walls[count], cpus[count] = planned(world, count)
            print(f"{count} runtimes: {walls[count]:.2f} s, {cpus[count]:.2f} s of the processor", flush=True)
    small, middle, large = SIZES
    first = (cpus[middle] - cpus[small]) / (middle - small)
    second = (cpus[large] - cpus[middle]) / (large - middle)
    print(
        f"a runtime more: {first * 1000:.0f} ms of the processor up to {middle}, {second * 1000:.0f} ms above"
    )
    return 0 if walls[large] <= BOUND_SECONDS and second <= SLOPE_BOUND * first else 1


if __name__ == "__main__":
    sys.exit(main())
