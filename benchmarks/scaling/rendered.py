"""What the chart chooses: read from what helm renders, or from its values where there is no helm."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .choices import OUR_AGENT, Budget, Choices, Policy

CHART = Path(__file__).resolve().parents[2] / "charts" / "sd-on-eks"
# Every value that the chart requires, and none that bears on scaling.
EXAMPLE = CHART / "ci" / "sdwebui-values.yaml"
UNITS = {"h": 3600, "m": 60, "s": 1}
Document = Mapping[str, Any]


def find_helm() -> str | None:
    """Return a helm: that of the PATH, or the one that the tests have fetched."""
    fetched = Path(sys.prefix) / "share" / "sdctl-tests" / "4" / "helm"
    return shutil.which("helm") or (str(fetched) if fetched.exists() else None)


def choices_of_chart(helm: str | None, values: Sequence[Path] = ()) -> Choices:
    """Return the chart's choices, with files of values over its own."""
    files = [EXAMPLE, *values]
    if helm:
        return from_objects(render(helm, files))
    merged: dict[str, Any] = _load(CHART / "values.yaml")
    for file in files:
        _merge(merged, _load(file))
    return from_values(merged)


def render(helm: str, files: Sequence[Path]) -> list[Document]:
    """Return the objects that helm makes of the chart.

    Raises:
        SystemExit: helm refuses; says why.
    """
    with tempfile.TemporaryDirectory() as home:
        command = [helm, "template", "sdruntime", str(CHART), "--kube-version", "1.35.0"]
        for file in files:
            command += ["--values", str(file)]
        done = subprocess.run(
            command, env={"HOME": home}, capture_output=True, text=True, timeout=60, check=False
        )
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def from_objects(objects: Sequence[Document]) -> Choices:
    """Return the choices that rendered objects make.

    Raises:
        ValueError: their formula is not one that the simulation knows.
    """
    by_kind = {one["kind"]: one for one in objects}
    scaled, pool = by_kind["ScaledObject"]["spec"], by_kind["NodePool"]["spec"]
    node, pod = by_kind["EC2NodeClass"]["spec"], by_kind["Deployment"]["spec"]["template"]
    # The trigger that counts what is in flight is there only where running tasks count.
    counts_running = any(one["metadata"]["scaleOnInFlight"] == "true" for one in scaled["triggers"])
    length = int(scaled["triggers"][0]["metadata"]["queueLength"])
    advanced = scaled["advanced"]
    formula = f"{'max(tasks - waiting, 0) + ' if counts_running else ''}waiting / {length}"
    if advanced["scalingModifiers"]["formula"] != formula:
        raise ValueError(f"the simulation knows no formula {advanced['scalingModifiers']['formula']!r}")
    behavior = advanced["horizontalPodAutoscalerConfig"]["behavior"]
    containers = [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
    env = {one["name"]: one.get("value") for container in containers for one in container.get("env", [])}
    volume = next(one for one in node["blockDeviceMappings"] if one["deviceName"] == "/dev/xvdb")["ebs"]
    (capacity,) = [
        one["values"]
        for one in pool["template"]["spec"]["requirements"]
        if one["key"].endswith("capacity-type")
    ]
    budget = by_kind.get("PodDisruptionBudget")
    protection = pod["metadata"]["annotations"].get("karpenter.sh/do-not-disrupt")
    is_parallel = "parallel-pull-unpack" in node.get("userData", "")
    return Choices(
        name="sd-on-eks",
        queue_length=length,
        activation_queue_length=float(advanced["scalingModifiers"]["activationTarget"]) * length,
        counts_running=counts_running,
        polling_seconds=scaled["pollingInterval"],
        cooldown_seconds=scaled["cooldownPeriod"],
        min_pods=scaled["minReplicaCount"],
        max_pods=scaled["maxReplicaCount"],
        stabilization_seconds=behavior["scaleDown"]["stabilizationWindowSeconds"],
        scale_up=_policies(behavior["scaleUp"]),
        scale_down=_policies(behavior["scaleDown"]),
        grace_seconds=pod["spec"]["terminationGracePeriodSeconds"],
        drain_seconds=float(env["DRAIN_SECONDS"] or 0),
        do_not_disrupt_seconds=seconds(protection) if protection else None,
        max_unavailable=str(budget["spec"]["maxUnavailable"]) if budget else None,
        idle_pods_go_first=any(one["name"] == "deletion-cost" for one in containers),
        warms_up=any(one["name"] == "warm-up" for one in containers),
        spot="spot" in capacity,
        on_demand="on-demand" in capacity,
        gpu_limit=int(pool["limits"]["nvidia.com/gpu"]),
        consolidates=pool["disruption"]["consolidationPolicy"] != "WhenEmpty",
        consolidate_after_seconds=seconds(pool["disruption"]["consolidateAfter"]),
        node_grace_seconds=seconds(pool["template"]["spec"]["terminationGracePeriod"]),
        budgets=_budgets(pool["disruption"]["budgets"]),
        image_cache="snapshot" if "snapshotID" in volume else "soci" if is_parallel else "none",
        has_local_disks=node.get("instanceStorePolicy") == "RAID0",
        volume_mib_per_second=volume["throughput"],
        initialization_mib_per_second=volume.get("volumeInitializationRate", 0),
        agent=OUR_AGENT,
    )


def from_values(values: Document) -> Choices:
    """Return the choices that the chart's values make, for where there is no helm to ask."""
    runtime, pool = values["runtime"], values["karpenter"]["provisioner"]
    scaling, node = runtime["scaling"], values["karpenter"]["nodeTemplate"]
    volume, disruption = node["dataVolume"], pool["disruption"]
    mode = node["imageCache"] or ("snapshot" if volume["snapshotID"] else "soci")
    if scaling["extraHPAConfig"] or scaling["schedule"]:
        raise ValueError("extraHPAConfig and schedule are read only from what helm renders")
    grace = runtime["drainSeconds"] + 60
    node_grace = disruption["terminationGracePeriod"] or (
        f"{grace + 5}s" if pool["capacityType"]["spot"] else "30m"
    )
    warm_up = values["types"][runtime["type"]]["warmUp"]["body"]
    return Choices(
        name="sd-on-eks",
        queue_length=scaling["queueLength"],
        activation_queue_length=scaling["activationQueueLength"],
        counts_running=scaling["scaleOnInFlight"],
        polling_seconds=scaling["pollingInterval"],
        cooldown_seconds=scaling["cooldownPeriod"],
        min_pods=scaling["minReplicaCount"],
        max_pods=scaling["maxReplicaCount"],
        stabilization_seconds=scaling["scaleDownStabilizationSeconds"],
        scale_up=(Policy("Percent", 100, 15), Policy("Pods", 10, 15)),
        scale_down=(Policy("Pods", scaling["scaleDownPodsPerMinute"], 60),),
        grace_seconds=grace,
        drain_seconds=runtime["drainSeconds"],
        do_not_disrupt_seconds=seconds(runtime["doNotDisrupt"]),
        max_unavailable=str(runtime["podDisruptionBudget"]["maxUnavailable"])
        if runtime["podDisruptionBudget"]["enabled"]
        else None,
        idle_pods_go_first=runtime["deletionCost"]["enabled"],
        warms_up=bool(runtime["inferenceApi"]["warmUp"] and warm_up),
        spot=pool["capacityType"]["spot"],
        on_demand=pool["capacityType"]["onDemand"],
        gpu_limit=2 * scaling["maxReplicaCount"],
        consolidates=pool["consolidation"],
        consolidate_after_seconds=seconds(disruption["consolidateAfter"]),
        node_grace_seconds=seconds(node_grace),
        budgets=_budgets(disruption["budgets"]),
        image_cache=mode,
        has_local_disks=mode != "snapshot",
        volume_mib_per_second=volume["throughput"],
        initialization_mib_per_second=volume["volumeInitializationRate"] if mode == "snapshot" else 0,
        agent=OUR_AGENT,
    )


def seconds(duration: str) -> float:
    """Return the seconds of a duration as Go writes it, 1h30m."""
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))


def _policies(rules: Document) -> tuple[Policy, ...]:
    return tuple(Policy(one["type"], one["value"], one["periodSeconds"]) for one in rules["policies"])


def _budgets(budgets: Sequence[Document]) -> tuple[Budget, ...]:
    return tuple(Budget(str(one["nodes"]), tuple(one.get("reasons", ()))) for one in budgets)


def _load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _merge(target: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value
