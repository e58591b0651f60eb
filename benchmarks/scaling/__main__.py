"""How a runtime scales with the chart's values and with upstream's: `python -m benchmarks.scaling`.

Simulates a burst of 10,000 tasks, a day of batches, and long tasks one by one; prints a table for each, and
with `--sweep` what each of the chart's values is worth. `--picture docs/scaling.png` draws the burst over
time. `--values` takes files of your own values. What AWS and Kubernetes take is in `timings.py`, with its
sources, and is the same for both.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .choices import UPSTREAM, Choices
from .farm import simulate
from .rendered import choices_of_chart, find_helm
from .sweep import Figures, measure, variants
from .workloads import WORKLOADS, burst

HEADINGS = ("first image", "p95 wait", "idle GPU", "cut off", "run twice", "$ per million")
ABOUT = {
    "burst": "10,000 pictures of 1.5 s at once",
    "day": "12,000 pictures in batches, one every eight minutes",
    "films": "600 tasks of 90 s, five a minute",
}


def row(name: str, one: Figures) -> str:
    """Return a line of a table."""
    cut = f"{one.interrupted:.1f}" + (f" ({one.failed:.1f} lost)" if one.failed else "")
    cells = (
        f"{one.first_image_seconds:.0f} s",
        f"{one.p95_wait_seconds:.0f} s",
        f"{one.idle_gpu_hours:.1f} h",
        cut,
        f"{one.ran_twice:.1f}",
        f"{one.dollars_per_million:,.0f}",
    )
    return f"| {name} | " + " | ".join(cells) + " |"


def head(name: str) -> str:
    """Return the first lines of a table."""
    return f"| {name} | " + " | ".join(HEADINGS) + " |\n|" + "---|" * (len(HEADINGS) + 1)


def compare(charts: list[Choices], seeds: range) -> None:
    """Print each workload's table."""
    for workload, about in ABOUT.items():
        print(f"\n{head(about)}")
        for chart in charts:
            print(row(chart.name, measure(chart, workload, seeds)))


def sweep(base: Choices, seeds: range) -> None:
    """Print what each choice is worth on each workload, the chart's own in bold."""
    for key, tried in variants(base):
        for workload in WORKLOADS:
            print(f"\n{head(f'{key}, {workload}')}")
            for one in tried:
                is_base = all(
                    getattr(one, name) == getattr(base, name) for name in Choices.__slots__ if name != "name"
                )
                print(row(f"**{one.name}**" if is_base else one.name, measure(one, workload, seeds)))


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument(
        "--helm", default=find_helm(), help="helm to render with; without one, values.yaml is read"
    )
    parser.add_argument(
        "--values", type=Path, action="append", default=[], help="your own values; repeatable"
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many runs each figure is the mean of")
    parser.add_argument("--sweep", action="store_true", help="try each choice of the chart")
    parser.add_argument("--picture", type=Path, help="draw a burst of 10,000 tasks into this PNG")
    options = parser.parse_args(arguments)
    ours = choices_of_chart(options.helm, options.values)
    seeds = range(1, options.seeds + 1)
    print(f"values: {'rendered by ' + options.helm if options.helm else 'read from values.yaml'}")
    compare([ours, UPSTREAM], seeds)
    if options.sweep:
        sweep(ours, seeds)
    if options.picture:
        from .picture import draw

        draw([simulate(one, burst(1), seed=1) for one in (ours, UPSTREAM)], options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
