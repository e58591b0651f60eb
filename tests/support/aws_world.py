"""AWS without AWS: everything that `sdctl --target aws` talks to, on loopback.

An emulator that is as strict as AWS where it matters, behind a door that spoils calls; a Kubernetes API as
the EKS cluster, with KEDA and Karpenter at work; a registry with the charts of others; the real helm; and the
real command line in processes of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import boto3
import yaml
from botocore.exceptions import ClientError

from sdctl.render.charts import mirrored
from sdctl.render.runtime_values import EVALUATION_IMAGES
from sdctl.versions import KARPENTER_VERSION, KEDA_VERSION
from support import helm_tools
from support.aws_answers import answers
from support.aws_cluster import Controllers
from support.aws_emulator import CLUSTER_VARIABLE, FAULTS_PATH
from support.aws_faults import ResourceFault
from support.aws_proxy import FaultProxy
from support.chart_registry import Served, chart_registry
from support.cli import ROOT, Ran
from support.eks_tokens import is_good
from support.emulator import running_emulator
from support.kubernetes_api import KubernetesApi

T = TypeVar("T")
ACCOUNT: Final = "123456789012"
REGION: Final = "us-west-2"
STACK: Final = "sdoneks"
USER: Final = "deployer"
_CHARTS: Final = Path(__file__).with_name("charts")
# For how long the cluster's existence is believed.
_BELIEF_SECONDS: Final = 0.2
_COMMAND_SECONDS: Final = 120
CONFIG: Final[dict[str, Any]] = {
    "stackName": STACK,
    "modelsRuntime": [
        {"name": "sdruntime", "namespace": "sdruntime", "type": "sdwebui", "dynamicModel": False,
         "modelFilename": "v1-5-pruned-emaonly.safetensors"},
    ],
}  # fmt: skip


@dataclass(slots=True)
class Running:
    """The command line at work, in a session of its own as a terminal gives it one."""

    process: subprocess.Popen[str]

    def interrupt(self) -> None:
        """Press Ctrl-C: every process of the terminal's foreground group gets it."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """Kill the command alone, as the kernel does when memory runs out."""
        self.process.kill()

    def end(self, timeout_seconds: float = _COMMAND_SECONDS) -> Ran:
        """Wait for the end."""
        try:
            stdout, stderr = self.process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            stdout, stderr = self.process.communicate()
            raise AssertionError(f"no end after {timeout_seconds} s:\n{stdout}\n{stderr}") from None
        return Ran(self.process.returncode, stdout, stderr)


@dataclass(slots=True)
class World:
    """Everything, and what tests ask of it."""

    folder: Path
    emulator_url: str
    proxy: FaultProxy
    api: KubernetesApi
    controllers: Controllers
    environment: dict[str, str]
    credentials: dict[str, str]
    image_registry: str
    config: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(CONFIG)))

    @property
    def project(self) -> Path:
        """The folder in which commands run."""
        return self.folder / "project"

    def client(self, service: str) -> Any:
        """Return a client that goes past the door."""
        return boto3.client(service, region_name=REGION, endpoint_url=self.emulator_url, **self.credentials)  # type: ignore[call-overload]

    def write_config(self, **changes: Any) -> None:
        """Write `sdctl.yaml`: the last configuration with top-level changes."""
        self.config |= changes
        document = {"imageRegistry": self.image_registry} | self.config
        (self.project / "sdctl.yaml").write_text(yaml.safe_dump(document, sort_keys=False))

    def calls_file(self, command: str) -> Path:
        """Return where every call of a command's AWS clients is written down, see `iam_site`."""
        return self.folder / f"calls-{command}.jsonl"

    def start(self, *words: str, environment: Mapping[str, str] | None = None) -> Running:
        """Start `sdctl` with `--target aws`, without a terminal."""
        environment = {"CALLS_FILE": str(self.calls_file(words[0]))} | dict(environment or {})
        process = subprocess.Popen(
            [sys.executable, "-m", "sdctl", *words, "--target", "aws"],
            cwd=self.project, env=self.environment | environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        return Running(process)

    def run(self, *words: str, environment: Mapping[str, str] | None = None) -> Ran:
        """Run `sdctl` to its end."""
        return self.start(*words, environment=environment).end()

    def deploy(self, *words: str) -> Ran:
        """Deploy without doctor and questions."""
        return self.run("deploy", "--yes", "--skip-doctor", *words)

    def set_faults(self, faults: Sequence[ResourceFault] = ()) -> None:
        """Let resources of stacks fail or take long; none, unless given."""
        body = json.dumps([asdict(one) for one in faults]).encode()
        with urllib.request.urlopen(self.emulator_url + FAULTS_PATH, data=body, timeout=10):
            pass

    def stacks(self) -> dict[str, str]:
        """Return the stacks that are there, with their states."""
        pages = self.client("cloudformation").get_paginator("describe_stacks").paginate()
        return {one["StackName"]: one["StackStatus"] for page in pages for one in page["Stacks"]}

    def outputs(self, stack: str) -> dict[str, str]:
        """Return a stack's outputs."""
        found = self.client("cloudformation").describe_stacks(StackName=stack)["Stacks"][0]
        return {one["OutputKey"]: one["OutputValue"] for one in found.get("Outputs", ())}

    def buckets(self) -> list[str]:
        """List the buckets."""
        return [one["Name"] for one in self.client("s3").list_buckets()["Buckets"]]

    def pending_change_sets(self) -> list[str]:
        """List the change sets that were made and never carried out."""
        client = self.client("cloudformation")
        ids = {one["StackId"] for one in client.describe_stacks()["Stacks"]}
        return [
            one["ChangeSetName"]
            for stack in self.stacks()
            for one in client.list_change_sets(StackName=stack)["Summaries"]
            # The emulator lists those of deleted stacks of the same name, too.
            if one["ExecutionStatus"] != "EXECUTE_COMPLETE" and one["StackId"] in ids
        ]

    def wait(self, probe: Callable[[], T], awaited: str, *, seconds: float = 15.0) -> T:
        """Ask until there is something, and return it."""
        deadline = time.monotonic() + seconds
        while not (found := probe()):
            if time.monotonic() > deadline:
                raise AssertionError(f"no {awaited} within {seconds} s") from self.controllers.problem
            time.sleep(0.05)
        return found

    def left(self) -> list[str]:
        """List what of a deployment is there that costs or stands in the way, but for kept buckets."""
        ec2, iam = self.client("ec2"), self.client("iam")
        instances = [one for held in ec2.describe_instances()["Reservations"] for one in held["Instances"]]
        gateways = ec2.describe_nat_gateways()["NatGateways"]
        return sorted([
            *(one["InstanceId"] for one in instances if one["State"]["Name"] != "terminated"),
            *(one["NatGatewayId"] for one in gateways if one["State"] != "deleted"),
            *(one["PublicIp"] for one in ec2.describe_addresses()["Addresses"]),
            *(one["NetworkInterfaceId"] for one in ec2.describe_network_interfaces()["NetworkInterfaces"]),
            *(one["LaunchTemplateId"] for one in ec2.describe_launch_templates()["LaunchTemplates"]),
            *(one["VpcId"] for one in ec2.describe_vpcs()["Vpcs"] if not one["IsDefault"]),
            *(one["InstanceProfileName"] for one in iam.list_instance_profiles()["InstanceProfiles"]),
            *(one["RoleName"] for one in iam.list_roles()["Roles"] if "aws-service-role" not in one["Path"]),
            *self.client("eks").list_clusters()["clusters"],
            *self.client("sqs").list_queues().get("QueueUrls", ()),
            *(one["TopicArn"] for one in self.client("sns").list_topics()["Topics"]),
            *self.client("dynamodb").list_tables()["TableNames"],
            *(one["FunctionName"] for one in self.client("lambda").list_functions()["Functions"]),
            *(one["logGroupName"] for one in self.client("logs").describe_log_groups()["logGroups"]),
            *(one["AlarmName"] for one in self.client("cloudwatch").describe_alarms()["MetricAlarms"]),
            *(one["Name"] for one in self.client("ssm").describe_parameters()["Parameters"]),
            *(one["id"] for one in self.client("apigateway").get_rest_apis()["items"]),
        ])  # fmt: skip

    def releases(self) -> dict[str, str]:
        """Return the last state of each Helm release, by `namespace/name`."""
        found: dict[str, tuple[int, str]] = {}
        for secret in self.api.objects("Secret"):
            labels = secret["metadata"].get("labels", {})
            if labels.get("owner") == "helm":
                key = f"{secret['metadata']['namespace']}/{labels['name']}"
                found[key] = max(found.get(key, (0, "")), (int(labels["version"]), labels["status"]))
        return {key: status for key, (_, status) in found.items()}


@contextmanager
def aws_world(folder: Path, *, helm_major: int = 4) -> Iterator[World]:
    """Let the world be for as long as the context lasts; skips the test where there is no helm."""
    helm = helm_tools.helm(helm_major)
    for name in ("project", "home", "emulator"):
        (folder / name).mkdir(parents=True)
    charts = {
        "sdctl/karpenter/karpenter": Served(_CHARTS / "karpenter", KARPENTER_VERSION),
        "sdctl/karpenter/karpenter-crd": Served(_CHARTS / "karpenter-crd", KARPENTER_VERSION),
        "sdctl/kedacore/charts/keda": Served(_CHARTS / "keda", KEDA_VERSION),
    }
    images = [mirrored(image, "sdctl") for image in EVALUATION_IMAGES.values()]
    door = _Door()
    with (
        KubernetesApi(authenticate=door.lets_in, ready_seconds=0, has_operators=False) as api,
        running_emulator(
            folder / "emulator", account=ACCOUNT, module="support.aws_emulator",
            environment={
                "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
                CLUSTER_VARIABLE: json.dumps({"endpoint": api.url, "authority": api.authority}),
                "MINISTACK_HOST": "127.0.0.1", "MINISTACK_REGION": REGION, "LAMBDA_EXECUTOR": "local",
                "DOCKER_HOST": f"unix://{folder}/no-docker",
            },
        ) as emulator_url,
        FaultProxy(emulator_url, answers(REGION)) as proxy,
        chart_registry(charts, folder, images=images, needs_login=False) as registry,
    ):  # fmt: skip
        credentials = _make_user(emulator_url)
        door.open(api, emulator_url, credentials)
        world = World(
            folder=folder, emulator_url=emulator_url, proxy=proxy, api=api,
            controllers=Controllers(
                api, ec2=door.client("ec2"), iam=door.client("iam"), cluster_name=STACK,
                is_there=door.is_cluster_there,
            ),
            environment=_environment(folder, proxy.url, helm, credentials),
            credentials=credentials, image_registry=f"{registry.host}/sdctl",
        )  # fmt: skip
        world.write_config()
        with world.controllers:
            yield world


def _make_user(emulator_url: str) -> dict[str, str]:
    """Make the user that deploys, and return the key as boto3's arguments."""
    root = {"aws_access_key_id": ACCOUNT, "aws_secret_access_key": "root"}
    iam = boto3.client("iam", region_name=REGION, endpoint_url=emulator_url, **root)  # type: ignore[call-overload]
    iam.create_user(UserName=USER)
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
    iam.put_user_policy(UserName=USER, PolicyName="deploy", PolicyDocument=policy)
    key = iam.create_access_key(UserName=USER)["AccessKey"]
    return {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}


def _environment(folder: Path, endpoint: str, helm: Path, credentials: Mapping[str, str]) -> dict[str, str]:
    return {
        "PATH": f"{helm.parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder / "home"),
        "SDCTL_HOME": str(folder / "home" / "sdctl"), "TMPDIR": str(folder),
        "PYTHONPATH": f"{Path(__file__).with_name('iam_site')}{os.pathsep}{ROOT}",
        "AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ACCESS_KEY_ID": credentials["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": credentials["aws_secret_access_key"],
    }  # fmt: skip


class _Door:
    """Who comes into the cluster: the principals of its access entries, for as long as it exists."""

    def __init__(self) -> None:
        self._api: KubernetesApi | None = None
        self._clients: dict[str, Any] = {}
        self._credentials: dict[str, str] = {}
        self._cluster = ""
        self._last_cluster = ""
        self._looked_at = 0.0
        self._lock = threading.Lock()

    def open(self, api: KubernetesApi, emulator_url: str, credentials: dict[str, str]) -> None:
        for service in ("eks", "ec2", "iam"):
            self._clients[service] = boto3.client(  # type: ignore[call-overload]
                service, region_name=REGION, endpoint_url=emulator_url, **credentials
            )
        self._api, self._credentials = api, credentials

    def client(self, service: str) -> Any:
        return self._clients[service]

    def lets_in(self, token: str) -> bool:
        key, secret = self._credentials["aws_access_key_id"], self._credentials["aws_secret_access_key"]
        if not is_good(token, STACK, access_key=key, secret_key=secret) or not self.is_cluster_there():
            return False
        if self._cluster != self._last_cluster:
            assert self._api is not None
            self._api.wipe()
            self._last_cluster = self._cluster
        return True

    def is_cluster_there(self) -> bool:
        """Tell whether the cluster exists and lets the user in; asks EKS from time to time."""
        with self._lock:
            if time.monotonic() > self._looked_at + _BELIEF_SECONDS:
                self._cluster = self._look()
                self._looked_at = time.monotonic()
            return bool(self._cluster)

    def _look(self) -> str:
        eks = self._clients["eks"]
        try:
            found = eks.describe_cluster(name=STACK)["cluster"]
            entries = eks.list_access_entries(clusterName=STACK)["accessEntries"]
        except ClientError as error:
            if error.response["Error"]["Code"] == "ResourceNotFoundException":
                return ""
            raise
        has_access = f"arn:aws:iam::{ACCOUNT}:user/{USER}" in entries
        return str(found["identity"]["oidc"]["issuer"]) if has_access else ""
