"""The simulation of how a runtime scales: what Kubernetes does, and what the chart promises."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.scaling import __main__ as command
from benchmarks.scaling.autoscaler import Autoscaler
from benchmarks.scaling.choices import OUR_AGENT, UPSTREAM, Agent, Budget, Choices, Policy
from benchmarks.scaling.events import Events
from benchmarks.scaling.farm import Outcome, simulate
from benchmarks.scaling.picture import COLOURS, draw
from benchmarks.scaling.rendered import choices_of_chart
from benchmarks.scaling.sweep import measure, variants
from benchmarks.scaling.task_queue import Task, TaskQueue
from benchmarks.scaling.timings import Timings
from benchmarks.scaling.workloads import burst, day, films
from support import helm_tools

ROOT = Path(__file__).resolve().parents[2]
CHART = choices_of_chart(None)
CALM = replace(Timings(), spot_interruptions_per_hour=0.0, spot_unavailable=0.0)
STORM = replace(Timings(), spot_interruptions_per_hour=4.0)


class Deployment:
    """A number of pods and nothing else."""

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas

    def scale(self, replicas: int) -> None:
        self.replicas = replicas


def autoscaler(
    choices: Choices, waiting: int, replicas: int
) -> tuple[Autoscaler, TaskQueue, Deployment, Events]:
    events = Events()
    queue = TaskQueue(events, choices.agent)
    for _ in range(waiting):
        queue.send(Task(0.0, 1.0))
    target = Deployment(replicas)
    return Autoscaler(events, choices, CALM, queue, target), queue, target, events


def small(choices: Choices, *, tasks: int = 400, seed: int = 1, timings: Timings = CALM) -> Outcome:
    return simulate(choices, burst(seed, tasks), timings=timings, seed=seed)


def test_what_helm_renders_and_what_the_values_say_are_the_same_choices() -> None:
    assert choices_of_chart(str(helm_tools.helm(4))) == CHART


def test_own_values_go_before_the_charts(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("runtime: {scaling: {queueLength: 25}, deletionCost: {enabled: true}}")

    rendered = choices_of_chart(str(helm_tools.helm(4)), [own])

    assert rendered == choices_of_chart(None, [own])
    assert (rendered.queue_length, rendered.idle_pods_go_first) == (25, True)


def test_the_same_seed_gives_the_same_outcome_and_another_one_does_not() -> None:
    assert small(CHART, timings=STORM) == small(CHART, timings=STORM)
    assert small(CHART, seed=2) != small(CHART)


@pytest.mark.parametrize("choices", [CHART, UPSTREAM], ids=lambda one: one.name)
@pytest.mark.parametrize("make", [burst, day, films], ids=lambda one: one.__name__)
def test_every_task_ends_once_whatever_happens_to_its_node(choices: Choices, make) -> None:
    tasks = make(3, 300)

    outcome = simulate(choices, tasks, timings=STORM, seed=3)

    assert sum(task.done_at is not None for task in tasks) == outcome.done
    assert outcome.done + outcome.failed == len(tasks)
    assert (outcome.samples[-1].pods, outcome.samples[-1].nodes) == (0, 0)
    busy = outcome.gpu_hours - outcome.idle_gpu_hours
    assert busy * 3600 >= sum(task.service_seconds for task in tasks if task.done_at) - 1e-6


def test_no_pod_and_no_node_is_more_than_the_chart_allows() -> None:
    samples = small(CHART, tasks=2000).samples

    assert max(one.pods for one in samples) == CHART.max_pods
    assert max(one.nodes for one in samples) <= CHART.gpu_limit


def test_the_first_pod_comes_with_the_first_look_and_the_others_by_the_policies() -> None:
    scaler, _, target, _ = autoscaler(CHART, waiting=1000, replicas=0)

    seen = []
    for step in (scaler.sync, scaler.poll, scaler.sync, scaler.sync):
        step()
        seen.append(target.replicas)

    assert seen == [0, 1, 11, 11]  # within 15 seconds no more than ten


def test_a_running_task_keeps_a_pod_only_where_running_tasks_count() -> None:
    wanted = []
    for choices in (CHART, UPSTREAM):
        scaler, queue, _, _ = autoscaler(choices, waiting=5, replicas=5)
        for _ in range(5):
            queue.receive()
        wanted.append(scaler.pods_wanted())

    assert wanted == [5, 0.5]


def test_pods_go_only_after_the_window_and_no_faster_than_the_policy() -> None:
    choices = replace(CHART, stabilization_seconds=60, scale_down=(Policy("Pods", 2, 60),))
    scaler, queue, target, events = autoscaler(choices, waiting=100, replicas=10)
    scaler.sync()
    while task := queue.receive():
        queue.delete(task)

    seen = []
    for now in (15, 60, 61, 75, 130):
        events.now = now
        scaler.sync()
        seen.append(target.replicas)

    assert seen == [10, 10, 8, 8, 6]


def test_a_message_comes_back_unless_its_agent_has_a_heartbeat() -> None:
    for agent, waiting in ((OUR_AGENT, 0), (Agent(heartbeats=False, drains=False, ahead_seconds=0), 1)):
        events = Events()
        queue = TaskQueue(events, agent)
        queue.send(Task(0.0, 100.0))
        task = queue.receive()
        assert task is not None
        events.after(60, lambda: None)

        events.run(lambda events=events: events.now == 60, 60)

        assert queue.waiting == waiting
        assert queue.delete(task)
        assert not queue.delete(task)
        assert (queue.waiting, queue.in_flight) == (0, 0)


def test_upstreams_values_lose_tasks_on_a_calm_day_and_the_charts_lose_none() -> None:
    timings = replace(CALM, spot_unavailable=0.3)

    lost = [simulate(one, films(1, 150), timings=timings).failed for one in (CHART, UPSTREAM)]

    assert lost[0] == 0
    assert lost[1] > 0


def test_no_task_of_the_chart_is_lost_with_a_spot_node() -> None:
    """A node's grace far above its pods' lets them work until the instance is gone."""
    outcomes = [simulate(CHART, films(seed, 100), timings=STORM, seed=seed) for seed in range(3)]
    long_grace = [
        simulate(replace(CHART, node_grace_seconds=1800), films(seed, 100), timings=STORM, seed=seed)
        for seed in range(3)
    ]

    assert sum(one.spot_interruptions for one in outcomes) > 5
    assert sum(one.lost_with_node for one in outcomes) == 0
    assert sum(one.lost_with_node for one in long_grace) > 0


def test_empty_nodes_that_may_all_go_at_once_cost_less() -> None:
    slow = replace(CHART, budgets=(Budget("20%"),))

    assert small(CHART, tasks=2000).idle_gpu_hours < 0.9 * small(slow, tasks=2000).idle_gpu_hours


def test_images_that_are_there_already_come_first_and_ordinary_pulls_last() -> None:
    snapshot = replace(
        CHART, image_cache="snapshot", has_local_disks=False, initialization_mib_per_second=300
    )
    modes = (snapshot, CHART, replace(CHART, image_cache="none"))

    seconds = [small(one).first_image_seconds for one in modes]

    assert seconds == sorted(seconds)
    assert seconds[0] < 135  # two minutes, which the guide promises, and KEDA's look at the queue
    lazy = replace(snapshot, initialization_mib_per_second=0)
    assert small(lazy).first_image_seconds > small(snapshot).first_image_seconds + 60


def test_the_sweep_tries_what_the_chart_has_for_every_value() -> None:
    for key, tried in variants(CHART):
        same = [one for one in tried if replace(one, name=CHART.name) == CHART]
        assert len(same) == 1, key


def test_the_picture_has_a_line_for_each_outcome(tmp_path: Path) -> None:
    draw([small(CHART), small(UPSTREAM)], tmp_path / "scaling.png")

    with Image.open(tmp_path / "scaling.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 16)}
        assert image.width > 1200
    assert {tuple(bytes.fromhex(one[1:])) for one in COLOURS[:2]} <= colours


def test_the_command_prints_a_table_for_each_workload(capsys) -> None:
    assert command.main(["--seeds", "1", "--helm", ""]) == 0

    out = capsys.readouterr().out
    assert out.count("| sd-on-eks |") == out.count("| upstream |") == 3
    assert "read from values.yaml" in out


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_the_readmes_figures_are_what_the_simulation_gives(readme: str, figures: list[list[str]]) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    _, _, section = text.partition("benchmarks.scaling`")
    rows = [line.split("|")[2:-1] for line in section.splitlines() if line.startswith("| ")][1:4]

    assert [[re.sub(r"[^\d./,]", "", cell) for cell in row] for row in rows] == figures


@pytest.fixture(scope="module")
def figures() -> list[list[str]]:
    rows = []
    for workload in ("burst", "day", "films"):
        ours, upstream = (measure(one, workload, range(1, 6)) for one in (CHART, UPSTREAM))
        rows.append(
            [
                f"{ours.first_image_seconds:.0f}/{upstream.first_image_seconds:.0f}",
                f"{ours.p95_wait_seconds:.0f}/{upstream.p95_wait_seconds:.0f}",
                f"{ours.idle_gpu_hours:.1f}/{upstream.idle_gpu_hours:.1f}",
                f"{ours.failed:.0f}/{upstream.failed:.1f}",
                f"{ours.dollars_per_million:,.0f}/{upstream.dollars_per_million:,.0f}",
            ]
        )
    return rows
