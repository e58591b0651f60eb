"""How many pods a runtime has, by hand: annotations of its ScaledObject, which no upgrade undoes.

KEDA reads them at once: https://keda.sh/docs/2.20/concepts/scaling-deployments/#pausing-autoscaling
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sdctl.clients import kubernetes as k8s
from sdctl.clients.kubernetes import Kubernetes
from sdctl.clients.kubernetes_objects import (
    PAUSED_ANNOTATION,
    PAUSED_REPLICAS_ANNOTATION,
    Scaling,
    read_scaling,
    read_workload,
    release_of,
)
from sdctl.errors import ConflictError, NotFoundError, UsageError

# Pods are started as the queue asks, and none is stopped.
PAUSED_SCALE_IN_ANNOTATION: Final = "autoscaling.keda.sh/paused-scale-in"
# What `kubectl rollout restart` writes, so that both mean the same.
RESTARTED_ANNOTATION: Final = "kubectl.kubernetes.io/restartedAt"
_NONE: Final[dict[str, str | None]] = dict.fromkeys(
    (PAUSED_ANNOTATION, PAUSED_REPLICAS_ANNOTATION, PAUSED_SCALE_IN_ANNOTATION)
)


@dataclass(frozen=True, slots=True)
class RuntimeWorkload:
    """A runtime in the cluster: its Deployment, how many pods that wants, and what scales it."""

    runtime: str
    namespace: str
    deployment: str
    replicas: int
    scaling: Scaling | None


def find_workload(kubernetes: Kubernetes, runtime: str) -> RuntimeWorkload:
    """Find a runtime by its release.

    Raises:
        NotFoundError: the cluster has no such release.
    """
    for found in kubernetes.list(k8s.DEPLOYMENTS):
        if release_of(found)[1] == runtime:
            workload = read_workload(found)
            break
    else:
        raise NotFoundError(f"the cluster has no release {runtime}", hint="sdctl status shows what there is")
    scalings = map(read_scaling, kubernetes.list(k8s.SCALED_OBJECTS, workload.namespace))
    scaling = next((one for one in scalings if one.target == workload.name), None)
    return RuntimeWorkload(runtime, workload.namespace, workload.name, workload.wanted, scaling)


def pause(kubernetes: Kubernetes, workload: RuntimeWorkload) -> int:
    """Hold a runtime at no pod: what runs is finished or handed back, and tasks wait in the queue."""
    _annotate(kubernetes, workload, {PAUSED_REPLICAS_ANNOTATION: "0"})
    return 0


def resume(kubernetes: Kubernetes, workload: RuntimeWorkload) -> int:
    """Let the queue decide again, after a pause or a warming."""
    _annotate(kubernetes, workload, {})
    return workload.replicas


def warm(kubernetes: Kubernetes, workload: RuntimeWorkload, pods: int) -> int:
    """Have at least so many pods, whatever waits; more start as the queue asks, and none is stopped.

    Raises:
        UsageError: it is more than the runtime may have.
    """
    maximum = _scaling(workload).maximum
    if pods > maximum:
        raise UsageError(
            f"{workload.runtime} may have {maximum} pods at most, not {pods}",
            hint="raise runtime.scaling.maxReplicaCount in extraValues, then sdctl deploy",
        )
    # First the annotation: without it what is started now would be stopped again.
    _annotate(kubernetes, workload, {PAUSED_SCALE_IN_ANNOTATION: "true"})
    wanted = max(pods, workload.replicas)
    if wanted != workload.replicas:
        kubernetes.patch(
            k8s.DEPLOYMENTS, workload.deployment, {"spec": {"replicas": wanted}}, workload.namespace
        )
    return wanted


def restart(kubernetes: Kubernetes, workload: RuntimeWorkload, now: datetime) -> int:
    """Replace every pod: each ends its task or hands it back, and its successor reads all files anew."""
    annotations = {RESTARTED_ANNOTATION: now.isoformat(timespec="seconds")}
    changes = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
    kubernetes.patch(k8s.DEPLOYMENTS, workload.deployment, changes, workload.namespace)
    return workload.replicas


def _scaling(workload: RuntimeWorkload) -> Scaling:
    if workload.scaling is None:
        raise ConflictError(
            f"{workload.runtime} is not scaled: runtime.scaling.enabled is false",
            hint="set runtime.replicas in its extraValues, then sdctl deploy",
        )
    return workload.scaling


def _annotate(kubernetes: Kubernetes, workload: RuntimeWorkload, wanted: dict[str, str]) -> None:
    scaling = _scaling(workload)
    kubernetes.annotate(k8s.SCALED_OBJECTS, scaling.name, {**_NONE, **wanted}, scaling.namespace)
