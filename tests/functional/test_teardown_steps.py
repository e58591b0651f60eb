"""The steps of a teardown against a Kubernetes API, and against moto for EC2, EKS, IAM and logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from moto import mock_aws

from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.cloudformation import CloudFormation
from sdctl.clients.cluster_access import ClusterAccess
from sdctl.clients.s3 import S3
from sdctl.deploy import drains, remains
from sdctl.deploy.context import StepContext
from sdctl.deploy.drain_steps import (
    HinderedStackStep,
    InstancesStep,
    LogGroupsStep,
    NodeClassesStep,
    NodePoolsStep,
    OrphansStep,
    ProtectionStep,
    ScaledObjectsStep,
    ScaleInStep,
    SnapshotStep,
    SystemNodesStep,
)
from sdctl.deploy.steps import Event, StackStep, Step
from sdctl.errors import DeployFailedError, WaitTimeoutError
from sdctl.polling import Clock, Pace
from support.kubernetes_api import KubernetesApi

REGION, CLUSTER = "us-west-2", "farm"
PAUSED = "autoscaling.keda.sh/paused-replicas"
KEDA, KARPENTER = ("keda", "keda-operator"), ("kube-system", "karpenter")
SPEC = {
    "replicas": 2,
    "selector": {"matchLabels": {"app": "sd"}},
    "template": {
        "metadata": {"labels": {"app": "sd"}},
        "spec": {"terminationGracePeriodSeconds": 60, "containers": [{"name": "m", "image": "i"}]},
    },
}


@dataclass
class Ground:
    """Moto and a cluster, and time that passes when it is slept through."""

    aws: Aws
    api: KubernetesApi
    told: list[Event] = field(default_factory=list)
    now: float = 0.0
    # What happens at each sleep, as controllers would do it meanwhile.
    meanwhile: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()

    def context(self) -> StepContext:
        clock = Clock(monotonic=lambda: self.now, sleep=self.sleep, uniform=lambda low, high: high)
        return StepContext(
            step="step", aws=self.aws, s3=S3(self.aws), cloudformation=CloudFormation(self.aws), outputs={},
            clock=clock, pace=Pace(), timeout_seconds=3600.0, tell=self.told.append, new_name=lambda: "x",
        )  # fmt: skip

    def run(self, step: Step) -> None:
        handlers = remains.REMAINS_HANDLERS | drains.drain_handlers({})
        handlers[type(step)](step, self.context())

    @property
    def waits(self) -> list[str]:
        return [event.reason for event in self.told if event.status == "waiting"]

    def put_operator(self, where: tuple[str, str]) -> None:
        namespace, name = where
        if namespace != "kube-system":
            self.api.put("Namespace", namespace)
        self.api.put("Deployment", name, namespace, spec=SPEC)


@pytest.fixture
def ground(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # seconds for each test
    with mock_aws(), KubernetesApi(ready_seconds=0) as api:
        aws = Aws(AwsAccess(REGION, access_key="testing", secret_key="testing"))
        access = ClusterAccess(CLUSTER, "arn", api.url, api.authority, REGION)
        monkeypatch.setattr(drains, "find_cluster", lambda _aws, _name: access)
        yield Ground(aws, api)


def runtime(api: KubernetesApi, *, pods: int = 2) -> None:
    api.put("Namespace", "sd")
    api.put("Deployment", "sd", "sd", spec=SPEC)
    target = {"scaleTargetRef": {"name": "sd"}, "maxReplicaCount": 5}
    api.put("ScaledObject", "sd", "sd", metadata={"finalizers": ["finalizer.keda.sh"]}, spec=target)
    for number in range(pods):
        api.put("Pod", f"sd-{number}", "sd", metadata={"labels": {"app": "sd"}}, spec={})
    api.put("Pod", "other", "sd", metadata={"labels": {"app": "other"}}, spec={})


def test_runtimes_are_held_at_no_replica_and_their_pods_waited_for(ground: Ground) -> None:
    runtime(ground.api)
    names = iter(["sd-0", "sd-1"])
    ground.meanwhile = lambda: ground.api.remove("Pod", next(names), "sd")
    ground.run(ScaleInStep(id="scale-in", action="update", cluster=CLUSTER))
    [scaled] = ground.api.objects("ScaledObject")
    assert scaled["metadata"]["annotations"] == {PAUSED: "0"}
    [deployment] = ground.api.objects("Deployment", "sd")
    assert deployment["spec"]["replicas"] == 0
    assert [one["metadata"]["name"] for one in ground.api.objects("Pod")] == ["other"]
    assert ground.waits[0] == "2 pods to end: a running task is finished or handed back"


def test_a_runtime_of_a_release_without_scaling_is_scaled_in_too(ground: Ground) -> None:
    ground.api.put("Namespace", "sd")
    ours = {"meta.helm.sh/release-name": "sd", "meta.helm.sh/release-namespace": "sd"}
    ground.api.put("Deployment", "fixed", "sd", metadata={"annotations": ours}, spec=SPEC)
    ground.api.put("Deployment", "theirs", "sd", spec=SPEC)
    step = ScaleInStep(id="scale-in", action="update", cluster=CLUSTER, releases=(("sd", "sd"),))
    ground.run(step)
    replicas = {one["metadata"]["name"]: one["spec"]["replicas"] for one in ground.api.objects("Deployment")}
    assert replicas == {"fixed": 0, "theirs": 2}


def test_pods_that_do_not_end_are_named_when_their_own_time_and_a_spare_are_over(ground: Ground) -> None:
    runtime(ground.api)
    with pytest.raises(WaitTimeoutError, match=r"2 left: sd-0, sd-1") as caught:
        ground.run(ScaleInStep(id="scale-in", action="update", cluster=CLUSTER))
    assert ground.now == pytest.approx(60 + drains.SPARE_SECONDS)
    assert "--skip-cluster" in caught.value.hint


def nodes(api: KubernetesApi) -> None:
    api.put("NodePool", "gpu", spec={})
    api.put("NodeClaim", "gpu-1", metadata={"finalizers": ["karpenter.sh/termination"]}, spec={})
    held = {"finalizers": ["karpenter.k8s.aws/termination"]}
    api.put("EC2NodeClass", "gpu", metadata=held, spec={})


def test_nodes_are_left_to_karpenter_while_it_is_there(ground: Ground) -> None:
    nodes(ground.api)
    ground.put_operator(KARPENTER)
    ground.meanwhile = lambda: ground.api.remove("NodeClaim", "gpu-1")
    ground.run(NodePoolsStep(id="node-pools", action="delete", cluster=CLUSTER))
    assert (ground.api.objects("NodePool"), ground.api.objects("NodeClaim")) == ([], [])
    assert ground.waits == ["1 node to be drained and terminated by Karpenter"]
    ground.meanwhile = lambda: ground.api.remove("EC2NodeClass", "gpu")
    ground.run(NodeClassesStep(id="node-classes", action="delete", cluster=CLUSTER))
    assert ground.api.objects("EC2NodeClass") == []


def test_what_a_karpenter_that_is_gone_holds_is_let_go(ground: Ground) -> None:
    nodes(ground.api)
    ground.run(NodePoolsStep(id="node-pools", action="delete", cluster=CLUSTER))
    ground.run(NodeClassesStep(id="node-classes", action="delete", cluster=CLUSTER))
    for kind in ("NodePool", "NodeClaim", "EC2NodeClass"):
        assert ground.api.objects(kind) == []
    assert ground.now == 0


def test_a_karpenter_that_does_nothing_is_an_error_that_names_the_nodes(ground: Ground) -> None:
    nodes(ground.api)
    ground.put_operator(KARPENTER)
    with pytest.raises(WaitTimeoutError, match=r"1 left: gpu-1"):
        ground.run(NodePoolsStep(id="node-pools", action="delete", cluster=CLUSTER))


def test_scaled_objects_are_left_to_keda_or_let_go_where_it_is_gone(ground: Ground) -> None:
    runtime(ground.api)
    step = ScaledObjectsStep(id="scaled-objects", action="delete", cluster=CLUSTER)
    ground.put_operator(KEDA)
    ground.meanwhile = lambda: ground.api.remove("ScaledObject", "sd", "sd")
    ground.run(step)
    assert ground.waits == ["1 ScaledObject to be let go by KEDA"]
    ground.api.remove("Deployment", KEDA[1], KEDA[0])
    held = {"finalizers": ["finalizer.keda.sh"]}
    ground.api.put("ScaledObject", "sd", "sd", metadata=held, spec={"scaleTargetRef": {"name": "sd"}})
    ground.run(step)
    assert ground.api.objects("ScaledObject") == []


def instance(aws: Aws, tags: dict[str, str]) -> str:
    ec2 = aws.client("ec2")
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    made = ec2.run_instances(
        ImageId="ami-12c6146b", MinCount=1, MaxCount=1, InstanceType="g5.xlarge",
        TagSpecifications=[{"ResourceType": "instance", "Tags": listed}],
    )  # fmt: skip
    return str(made["Instances"][0]["InstanceId"])


def state(aws: Aws, instance_id: str) -> str:
    found = aws.client("ec2").describe_instances(InstanceIds=[instance_id])
    return str(found["Reservations"][0]["Instances"][0]["State"]["Name"])


def test_karpenters_instances_are_terminated_and_no_others(ground: Ground) -> None:
    owned = {f"kubernetes.io/cluster/{CLUSTER}": "owned"}
    ours = instance(ground.aws, owned | {"karpenter.sh/nodepool": "gpu"})
    system = instance(ground.aws, owned)
    theirs = instance(ground.aws, {"kubernetes.io/cluster/other": "owned", "karpenter.sh/nodepool": "gpu"})
    ground.run(InstancesStep(id="instances", action="delete", cluster=CLUSTER))
    assert state(ground.aws, ours) == "terminated"
    assert {state(ground.aws, system), state(ground.aws, theirs)} == {"running"}


def test_launch_templates_and_profiles_of_the_cluster_go_and_no_others(ground: Ground) -> None:
    ec2, iam = ground.aws.client("ec2"), ground.aws.client("iam")
    for name in (CLUSTER, "other"):
        tags = [{"Key": "karpenter.k8s.aws/cluster", "Value": name}]
        ec2.create_launch_template(
            LaunchTemplateName=name, LaunchTemplateData={"InstanceType": "g5.xlarge"},
            TagSpecifications=[{"ResourceType": "launch-template", "Tags": tags}],
        )  # fmt: skip
    iam.create_role(RoleName="node", AssumeRolePolicyDocument="{}")
    profiles = {
        "new": f"/karpenter/{REGION}/{CLUSTER}/1/", f"{CLUSTER}_123": "/",
        "foreign": f"/karpenter/{REGION}/other/1/", f"{CLUSTER}_mine": "/",
    }  # fmt: skip
    for name, path in profiles.items():
        iam.create_instance_profile(InstanceProfileName=name, Path=path)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName="node")
    step = OrphansStep(id="orphans", action="delete", cluster=CLUSTER)
    ground.run(step)
    ground.run(step)
    left = [one["InstanceProfileName"] for one in iam.list_instance_profiles()["InstanceProfiles"]]
    assert sorted(left) == ["farm_mine", "foreign"]
    templates = ec2.describe_launch_templates()["LaunchTemplates"]
    assert [one["LaunchTemplateName"] for one in templates] == ["other"]


def cluster(aws: Aws) -> None:
    network = {"subnetIds": ["subnet-1", "subnet-2"]}
    aws.client("eks").create_cluster(
        name=CLUSTER, roleArn="arn:aws:iam::123456789012:role/x", resourcesVpcConfig=network
    )


def test_node_groups_end_where_the_cluster_is_not_spoken_to(ground: Ground) -> None:
    cluster(ground.aws)
    eks = ground.aws.client("eks")
    eks.create_nodegroup(
        clusterName=CLUSTER,
        nodegroupName="system",
        subnets=["subnet-1"],
        nodeRole="arn:aws:iam::123456789012:role/x",
    )
    step = SystemNodesStep(id="system-nodes", action="delete", cluster=CLUSTER)
    ground.run(step)
    assert eks.list_nodegroups(clusterName=CLUSTER)["nodegroups"] == []
    ground.run(step)


def test_the_logs_of_the_deployment_go_and_no_others(ground: Ground) -> None:
    logs = ground.aws.client("logs")
    for name in ("/aws/eks/farm/cluster", "/aws/lambda/farmStack-api", "/aws/eks/farmer/cluster"):
        logs.create_log_group(logGroupName=name)
    prefixes = ("/aws/eks/farm/", "/aws/lambda/farmStack-")
    ground.run(LogGroupsStep(id="log-groups", action="delete", prefixes=prefixes))
    assert [one["logGroupName"] for one in logs.describe_log_groups()["logGroups"]] == [
        "/aws/eks/farmer/cluster"
    ]


def test_a_snapshot_that_is_gone_is_deleted_already(ground: Ground) -> None:
    ec2 = ground.aws.client("ec2")
    volume = ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=8)["VolumeId"]
    snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    step = SnapshotStep(id="s", action="delete", snapshot_id=snapshot)
    ground.run(step)
    ground.run(step)
    wanted = [{"Name": "snapshot-id", "Values": [snapshot]}]
    assert ec2.describe_snapshots(Filters=wanted)["Snapshots"] == []


def idle_interface(aws: Aws, vpc: str, tags: dict[str, str]) -> str:
    ec2 = aws.client("ec2")
    found = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    made = ec2.create_network_interface(
        SubnetId=found[0]["SubnetId"],
        TagSpecifications=[{"ResourceType": "network-interface", "Tags": listed}],
    )  # fmt: skip
    return str(made["NetworkInterface"]["NetworkInterfaceId"])


def network(aws: Aws) -> str:
    ec2 = aws.client("ec2")
    vpc = str(ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"])
    ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/19")
    return vpc


@pytest.fixture
def stubborn(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> tuple[Ground, list[str]]:
    """A network whose stack fails to go for as long as an interface is in it."""
    vpc = network(ground.aws)
    cloudformation = ground.aws.client("cloudformation")
    body = '{"Resources": {"T": {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": "t"}}}}'
    cloudformation.create_stack(StackName="farm-network", TemplateBody=body)
    attempts: list[str] = []

    def carry_out(step: StackStep, context: StepContext) -> None:
        attempts.append(step.name)
        wanted = [{"Name": "vpc-id", "Values": [vpc]}]
        if ground.aws.client("ec2").describe_network_interfaces(Filters=wanted)["NetworkInterfaces"]:
            raise DeployFailedError("the stack farm-network ended as DELETE_FAILED")

    real = CloudFormation.find

    def find(self: CloudFormation, name: str) -> Any:
        found = real(self, name)
        return replace(found, status="DELETE_FAILED") if found else None

    monkeypatch.setattr(remains, "carry_out_stack", carry_out)
    monkeypatch.setattr(CloudFormation, "find", find)
    return ground, [vpc, *attempts]


def hindered(vpc: str) -> HinderedStackStep:
    return HinderedStackStep(id="network", action="delete", name="farm-network", cluster=CLUSTER, vpc_id=vpc)


def test_interfaces_that_nodes_left_are_deleted_and_the_stack_tried_again(
    stubborn: tuple[Ground, list[str]],
) -> None:
    ground, (vpc, *_) = stubborn
    first = idle_interface(ground.aws, vpc, {"cluster.k8s.amazonaws.com/name": CLUSTER})
    # One is let go only after a while: by then it has got its tag.
    late = idle_interface(ground.aws, vpc, {})

    def tag() -> None:
        tags = [{"Key": "cluster.k8s.amazonaws.com/name", "Value": CLUSTER}]
        ground.aws.client("ec2").create_tags(Resources=[late], Tags=tags)

    ground.meanwhile = tag
    ground.run(hindered(vpc))
    left = ground.aws.client("ec2").describe_network_interfaces()["NetworkInterfaces"]
    assert {one["NetworkInterfaceId"] for one in left}.isdisjoint({first, late})
    assert ground.waits == ["what the nodes left in the network to be free"]


def test_what_stays_in_the_way_is_named(stubborn: tuple[Ground, list[str]]) -> None:
    ground, (vpc, *_) = stubborn
    theirs = idle_interface(ground.aws, vpc, {})
    group = ground.aws.client("ec2").create_security_group(GroupName="web", Description="w", VpcId=vpc)
    with pytest.raises(DeployFailedError) as caught:
        ground.run(hindered(vpc))
    assert f"security group {group['GroupId']} (web)" in caught.value.message
    assert f"network interface {theirs}" in caught.value.message
    assert caught.value.hint.startswith("delete these")


def test_a_protected_cluster_is_unprotected(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(ground.aws)
    eks, asked, answers = ground.aws.client("eks"), list[dict[str, Any]](), iter([True, True, False])
    monkeypatch.setattr(eks, "update_cluster_config", lambda **given: asked.append(given))
    real = eks.describe_cluster

    def describe(**given: Any) -> dict[str, Any]:
        found = real(**given)
        return {"cluster": found["cluster"] | {"deletionProtection": next(answers)}}

    monkeypatch.setattr(eks, "describe_cluster", describe)
    ground.run(ProtectionStep(id="protection", action="update", cluster=CLUSTER))
    assert asked == [{"name": CLUSTER, "deletionProtection": False}]
    assert ground.now > 0
