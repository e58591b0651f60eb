"""What runs in a deployment's cluster, as far as a deploy and a teardown meet it.

A scheduler that makes pods; KEDA, while its operator's Deployment is there; Karpenter, while its own is:
it starts EC2 instances for pods that ask for a GPU, and ends them when their NodeClaims go. Nobody removes
a finalizer, or ends an instance, once the controller that should is uninstalled. That is a teardown's trap:
https://karpenter.sh/docs/troubleshooting/#uninstallation-fails
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from itertools import count
from types import TracebackType
from typing import Any, Final, Self

from support.kubernetes_api import KubernetesApi
from support.kubernetes_store import Object, StatusError

_TICK_SECONDS: Final = 0.03
_GPU: Final = "nvidia.com/gpu"
_PAUSED: Final = "autoscaling.keda.sh/paused-replicas"
KARPENTER_FINALIZER: Final = "karpenter.sh/termination"
CLASS_FINALIZER: Final = "karpenter.k8s.aws/termination"
KEDA_FINALIZER: Final = "finalizer.keda.sh"
_OF: Final = "test.sdctl/deployment"


class Controllers:
    """The controllers, as a context manager; they run in a thread.

    Args:
        api: the cluster's API.
        ec2: a boto3 client of EC2, and
        iam: of IAM: where instances and instance profiles are made.
        cluster_name: for tags.
        is_there: tells whether the cluster exists; without it nothing runs.
    """

    def __init__(
        self, api: KubernetesApi, *, ec2: Any, iam: Any, cluster_name: str, is_there: Callable[[], bool]
    ) -> None:
        self.problem: BaseException | None = None
        self._api, self._ec2, self._iam, self._cluster = api, ec2, iam, cluster_name
        self._is_there = is_there
        self._load: dict[str, int] = {}
        self._numbers = count(1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)
        if error is None and self.problem is not None:
            raise AssertionError("the controllers failed") from self.problem

    def demand(self, deployment: str, replicas: int) -> None:
        """Say how many replicas KEDA would ask for by the length of its queue."""
        self._load[deployment] = replicas

    def _run(self) -> None:
        seen: object = None
        while not self._stop.wait(_TICK_SECONDS):
            version = (id(self._api.store), self._api.store.resource_version, dict(self._load))
            if version == seen or not self._is_there():
                continue
            try:
                self._tick()
            except StatusError:
                continue  # an object has changed or gone meanwhile: look again
            except BaseException as error:
                self.problem = error
                raise
            seen = version

    def _tick(self) -> None:
        deployments = self._api.objects("Deployment")
        names = {one["metadata"]["name"] for one in deployments}
        if "keda-operator" in names:
            self._keda(deployments)
        self._pods(self._api.objects("Deployment"))
        if "karpenter" in names:
            self._classes()
            self._claims()

    # ---- Pods ----------------------------------------------------------------------------------
    def _pods(self, deployments: list[Object]) -> None:
        pods = self._api.objects("Pod")
        wanted: set[tuple[str, str]] = set()
        for found in deployments:
            namespace, name = found["metadata"]["namespace"], found["metadata"]["name"]
            for number in range(found["spec"].get("replicas", 1)):
                wanted.add((namespace, f"{name}-{number}"))
        there = {(one["metadata"]["namespace"], one["metadata"]["name"]): one for one in pods}
        for namespace, name in there.keys() - wanted:
            self._api.remove("Pod", name, namespace)
        for namespace, name in wanted - there.keys():
            self._make_pod(namespace, name)

    def _make_pod(self, namespace: str, name: str) -> None:
        of = name.rpartition("-")[0]
        owner = next(
            (one for one in self._api.objects("Deployment", namespace) if one["metadata"]["name"] == of), None
        )
        if owner is None:
            return
        template = owner["spec"]["template"]
        labels = {**template["metadata"].get("labels", {}), _OF: of}
        needs_gpu = _needs_gpu(template["spec"])
        spec = template["spec"] if needs_gpu else {**template["spec"], "nodeName": "system"}
        status = {"phase": "Pending"} if needs_gpu else {"phase": "Running"}
        self._api.put("Pod", name, namespace, metadata={"labels": labels}, spec=spec, status=status)

    # ---- KEDA ----------------------------------------------------------------------------------
    def _keda(self, deployments: list[Object]) -> None:
        for found in self._api.objects("ScaledObject"):
            metadata, spec = found["metadata"], found["spec"]
            namespace = metadata["namespace"]
            if self._finalize("ScaledObject", found, KEDA_FINALIZER):
                continue
            target = spec["scaleTargetRef"]["name"]
            paused = metadata.get("annotations", {}).get(_PAUSED)
            asked = max(spec.get("minReplicaCount", 0), self._load.get(target, 0))
            count = int(paused) if paused is not None else min(asked, spec.get("maxReplicaCount", 100))
            for one in deployments:
                is_target = (one["metadata"]["namespace"], one["metadata"]["name"]) == (namespace, target)
                if is_target and one["spec"].get("replicas", 1) != count:
                    patch = {"spec": {"replicas": count}}
                    self._api.edit("Deployment", target, namespace, patch, manager="keda-operator")

    def _finalize(self, kind: str, found: Object, finalizer: str, *, is_free: bool = True) -> bool:
        """Put the finalizer on a new object, take it off a deleted one; tells whether it is deleted."""
        metadata = found["metadata"]
        finalizers = metadata.get("finalizers", [])
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        if metadata.get("deletionTimestamp"):
            if finalizer in finalizers and is_free:
                patch = {"metadata": {"finalizers": [one for one in finalizers if one != finalizer]}}
                self._api.edit(kind, name, namespace, patch, manager="controller")
            return True
        if finalizer not in finalizers:
            patch = {"metadata": {"finalizers": [*finalizers, finalizer]}}
            self._api.edit(kind, name, namespace, patch, manager="controller")
        return False

    # ---- Karpenter -----------------------------------------------------------------------------
    def _classes(self) -> None:
        """A node class holds its instance profile until it is deleted: a given one, or one of its role."""
        claims = self._api.objects("NodeClaim")
        for found in self._api.objects("EC2NodeClass"):
            name, spec = found["metadata"]["name"], found["spec"]
            is_used = any(one["spec"]["nodeClassRef"]["name"] == name for one in claims)
            if "role" in spec:
                self._keep_profile(name, spec["role"], is_needed="deletionTimestamp" not in found["metadata"])
            elif spec["instanceProfile"] not in self._profiles():
                raise AssertionError(f"the instance profile {spec['instanceProfile']} does not exist")
            if "deletionTimestamp" in found["metadata"] and not is_used:
                for template in self._templates():
                    self._ec2.delete_launch_template(LaunchTemplateId=template["LaunchTemplateId"])
            self._finalize("EC2NodeClass", found, CLASS_FINALIZER, is_free=not is_used)

    def _keep_profile(self, node_class: str, role: str, *, is_needed: bool) -> None:
        profile = f"{self._cluster}_{hashlib.sha256(node_class.encode()).hexdigest()[:20]}"
        names = {"InstanceProfileName": profile}
        if is_needed and profile not in self._profiles():
            self._iam.create_instance_profile(**names)
            self._iam.add_role_to_instance_profile(**names, RoleName=role)
        elif not is_needed and profile in self._profiles():
            self._iam.remove_role_from_instance_profile(**names, RoleName=role)
            self._iam.delete_instance_profile(**names)

    def _profiles(self) -> set[str]:
        return {one["InstanceProfileName"] for one in self._iam.list_instance_profiles()["InstanceProfiles"]}

    def _templates(self) -> list[dict[str, Any]]:
        wanted = [{"Name": "tag:karpenter.k8s.aws/cluster", "Values": [self._cluster]}]
        found: list[dict[str, Any]] = self._ec2.describe_launch_templates(Filters=wanted)["LaunchTemplates"]
        return found

    def _claims(self) -> None:
        claims = self._api.objects("NodeClaim")
        # Looked at after the claims: one that was deleted when Karpenter had gone is nobody's to end.
        if all(one["metadata"]["name"] != "karpenter" for one in self._api.objects("Deployment")):
            return
        for found in claims:
            if "deletionTimestamp" in found["metadata"]:
                self._end_node(found)
            self._finalize("NodeClaim", found, KARPENTER_FINALIZER)
        pools = [one for one in self._api.objects("NodePool") if "deletionTimestamp" not in one["metadata"]]
        for pod in self._api.objects("Pod"):
            if _needs_gpu(pod["spec"]) and "nodeName" not in pod["spec"]:
                pool = next((one for one in pools if _fits(pod, one)), None)
                if pool is not None:
                    self._bind(pod, self._free_node(pool) or self._start_node(pool))

    def _free_node(self, pool: Object) -> str:
        """Name a node of the pool that an earlier pod has left; empty where there is none."""
        taken = {pod["spec"].get("nodeName") for pod in self._api.objects("Pod")}
        for claim in self._api.objects("NodeClaim"):
            metadata, name = claim["metadata"], str(claim["status"]["nodeName"])
            is_of_pool = metadata["labels"]["karpenter.sh/nodepool"] == pool["metadata"]["name"]
            if is_of_pool and "deletionTimestamp" not in metadata and name not in taken:
                return name
        return ""

    def _bind(self, pod: Object, node: str) -> None:
        bound = {"spec": {"nodeName": node}, "status": {"phase": "Running"}}
        metadata = pod["metadata"]
        self._api.edit("Pod", metadata["name"], metadata["namespace"], bound, manager="scheduler")

    def _start_node(self, pool: Object) -> str:
        name = f"{pool['metadata']['name']}-{next(self._numbers)}"
        instance_type = _instance_type(pool)
        reference = pool["spec"]["template"]["spec"]["nodeClassRef"]
        tags = {
            "karpenter.sh/nodepool": pool["metadata"]["name"], "karpenter.sh/nodeclaim": name,
            f"kubernetes.io/cluster/{self._cluster}": "owned", "eks:eks-cluster-name": self._cluster,
            "karpenter.k8s.aws/cluster": self._cluster,
        }  # fmt: skip
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        subnet = self._a_subnet()
        if not self._templates():
            self._ec2.create_launch_template(
                LaunchTemplateName=f"karpenter.k8s.aws/{self._cluster}",
                LaunchTemplateData={"InstanceType": instance_type},
                TagSpecifications=[{"ResourceType": "launch-template", "Tags": listed}],
            )
        instance = self._ec2.run_instances(
            ImageId="ami-00000000", InstanceType=instance_type, MinCount=1, MaxCount=1,
            SubnetId=subnet, TagSpecifications=[{"ResourceType": "instance", "Tags": listed}],
        )["Instances"][0]  # fmt: skip
        provider = f"aws:///{instance['Placement']['AvailabilityZone']}/{instance['InstanceId']}"
        owner = {
            "apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": pool["metadata"]["name"],
            "uid": pool["metadata"]["uid"], "blockOwnerDeletion": True,
        }  # fmt: skip
        labels = {
            "karpenter.sh/nodepool": pool["metadata"]["name"], "karpenter.sh/capacity-type": "spot",
            "node.kubernetes.io/instance-type": instance_type,
            "topology.kubernetes.io/zone": instance["Placement"]["AvailabilityZone"],
        }  # fmt: skip
        self._api.put("Node", name, metadata={"labels": labels}, spec={"providerID": provider})
        ready = [{"type": "Ready", "status": "True"}]
        self._api.put(
            "NodeClaim", name,
            metadata={"labels": labels, "ownerReferences": [owner], "finalizers": [KARPENTER_FINALIZER]},
            spec={"nodeClassRef": reference},
            status={"providerID": provider, "nodeName": name, "conditions": ready},
        )  # fmt: skip
        return name

    def _a_subnet(self) -> str:
        wanted = [{"Name": "tag:kubernetes.io/role/internal-elb", "Values": ["1"]}]
        return str(self._ec2.describe_subnets(Filters=wanted)["Subnets"][0]["SubnetId"])

    def _end_node(self, claim: Object) -> None:
        name = claim["metadata"]["name"]
        for pod in self._api.objects("Pod"):
            if pod["spec"].get("nodeName") == name:
                self._api.remove("Pod", pod["metadata"]["name"], pod["metadata"]["namespace"])
        instance = claim["status"]["providerID"].rpartition("/")[2]
        self._ec2.terminate_instances(InstanceIds=[instance])
        if any(one["metadata"]["name"] == name for one in self._api.objects("Node")):
            self._api.remove("Node", name)


def _needs_gpu(spec: Object) -> bool:
    containers = [*spec.get("containers", ()), *spec.get("initContainers", ())]
    return any(_GPU in one.get("resources", {}).get("limits", {}) for one in containers)


def _instance_type(pool: Object) -> str:
    """Return the first instance type that the pool allows."""
    for one in pool["spec"]["template"]["spec"].get("requirements", ()):
        if one["key"] == "node.kubernetes.io/instance-type":
            return str(one["values"][0])
    return "g5.xlarge"


def _fits(pod: Object, pool: Object) -> bool:
    """A pod that names its pool fits that one alone; its other requirements are not looked at."""
    named = pod["spec"].get("nodeSelector", {}).get("karpenter.sh/nodepool")
    return named in (None, pool["metadata"]["name"])
