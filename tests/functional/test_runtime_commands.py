"""`runtime` and `queue` as a user runs them: on this machine, and against a cluster's API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber

from sdctl.clients import kubernetes as k8s
from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.cluster_access import ClusterAccess, Token, TokenSource
from sdctl.clients.kubernetes import Kubernetes
from sdctl.clients.kubernetes_http import Object
from sdctl.clients.queues import Queues
from sdctl.deployments import Deployment, Deployments
from sdctl.errors import AwsError
from sdctl.local.target import LocalTarget
from sdctl.polling import Clock
from support.cli import run
from support.farm import Farm
from support.kubernetes_api import KubernetesApi
from support.local_target import eventually

STACK, REGION = "sdoneks", "us-west-2"
KEDA = "autoscaling.keda.sh"
PAUSED, SCALE_IN = f"{KEDA}/paused-replicas", f"{KEDA}/paused-scale-in"
NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)


@dataclass
class Cluster:
    """A cluster with one runtime in it, scaled by KEDA."""

    api: KubernetesApi
    client: Kubernetes

    def deployment(self) -> Object:
        return self.client.get(k8s.DEPLOYMENTS, "sd", "default")

    def annotations(self) -> dict[str, str]:
        scaled = self.client.get(k8s.SCALED_OBJECTS, "sd", "default")
        return dict(scaled["metadata"].get("annotations") or {})

    def replicas(self) -> int:
        return int(self.deployment()["spec"]["replicas"])


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cluster]:
    with KubernetesApi(ready_seconds=0) as api:
        access = ClusterAccess(STACK, "arn", api.url, api.authority, REGION)
        tokens = TokenSource(lambda: Token("good", datetime.max.replace(tzinfo=UTC)))
        with Kubernetes(access, tokens) as client:
            client.apply(k8s.DEPLOYMENTS, deployment())
            client.apply(k8s.SCALED_OBJECTS, scaled_object())
            monkeypatch.setattr("sdctl.clients.cluster_access.find_cluster", lambda aws, name: access)
            monkeypatch.setattr(
                "sdctl.clients.kubernetes.connect", lambda aws, found, **options: Kubernetes(found, tokens)
            )
            record = Deployment(STACK, REGION, "aws", str(Path.cwd()), {}, runtimes={"sdruntime": "sdwebui"})
            Deployments(tmp_path / "sdctl-home").record(record)
            yield Cluster(api, client)


def deployment() -> Object:
    return {
        "metadata": {
            "name": "sd", "namespace": "default",
            "annotations": {
                "meta.helm.sh/release-name": "sdruntime", "meta.helm.sh/release-namespace": "default",
            },
        },
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "sd"}},
            "template": {
                "metadata": {"labels": {"app": "sd"}},
                "spec": {"containers": [{"name": "queue-agent", "image": "agent:1"}]},
            },
        },
    }  # fmt: skip


def scaled_object() -> Object:
    spec = {"scaleTargetRef": {"name": "sd"}, "minReplicaCount": 0, "maxReplicaCount": 5, "triggers": []}
    return {"metadata": {"name": "sd", "namespace": "default", "annotations": {"mine": "1"}}, "spec": spec}


def test_pause_holds_the_runtime_at_no_pod_and_resume_leaves_it_to_the_queue(cluster: Cluster) -> None:
    paused = run("runtime", "pause", "-o", "json")
    assert paused.document == {"runtime": "sdruntime", "state": "paused", "replicas": 0}
    assert cluster.annotations() == {"mine": "1", PAUSED: "0"}
    assert run("runtime", "resume", "SDRuntime").code == 0
    assert cluster.annotations() == {"mine": "1"}


def test_warm_starts_pods_and_keeps_them_from_being_stopped_after_a_pause_too(cluster: Cluster) -> None:
    run("runtime", "pause")
    warmed = run("runtime", "warm", "4", "sdruntime", "-o", "json")
    assert warmed.document == {"runtime": "sdruntime", "state": "warm", "replicas": 4}
    assert cluster.annotations() == {"mine": "1", SCALE_IN: "true"}
    assert cluster.replicas() == 4


def test_warm_takes_the_runtime_and_the_number_in_either_order(cluster: Cluster) -> None:
    assert run("runtime", "warm", "sdruntime", "3", "-o", "json").document["replicas"] == 3
    for words in (("0",), ("-1",), ("sdruntime",), ("sdruntime", "many")):
        assert run("runtime", "warm", *words).code == 2


def test_warm_stops_no_pod_that_is_at_work(cluster: Cluster) -> None:
    assert run("runtime", "warm", "1", "-o", "json").document["replicas"] == 2
    assert cluster.replicas() == 2


def test_warm_refuses_more_pods_than_the_runtime_may_have_and_changes_nothing(cluster: Cluster) -> None:
    refused = run("runtime", "warm", "6", "-o", "json")
    assert (refused.code, refused.error["code"]) == (2, "usage")
    assert "5 pods at most" in refused.error["message"]
    assert (cluster.annotations(), cluster.replicas()) == ({"mine": "1"}, 2)


def test_restart_changes_the_pods_template_alone(cluster: Cluster) -> None:
    before = cluster.deployment()
    assert run("runtime", "restart").code == 0
    after = cluster.deployment()
    stamp = after["spec"]["template"]["metadata"].pop("annotations")
    assert list(stamp) == ["kubectl.kubernetes.io/restartedAt"]
    assert datetime.fromisoformat(stamp["kubectl.kubernetes.io/restartedAt"]).tzinfo is not None
    assert after["spec"] == before["spec"]
    assert cluster.annotations() == {"mine": "1"}


def test_a_runtime_that_is_not_scaled_says_where_its_replicas_are_set(cluster: Cluster) -> None:
    cluster.client.delete(k8s.SCALED_OBJECTS, "sd", "default")
    refused = run("runtime", "pause", "-o", "json")
    assert (refused.code, refused.error["hint"]) == (
        8, "set runtime.replicas in its extraValues, then sdctl deploy",
    )  # fmt: skip
    assert run("runtime", "restart").code == 0


def test_a_runtime_that_the_cluster_does_not_have_is_not_found(cluster: Cluster) -> None:
    assert run("runtime", "pause", "other", "-o", "json").code == 4


# ---- Queues on AWS -----------------------------------------------------------------------------
DEAD, QUEUE = "https://sqs.us-west-2.amazonaws.com/1/dead", "https://sqs.us-west-2.amazonaws.com/1/tasks"


@pytest.fixture
def sqs() -> Iterator[tuple[Queues, Stubber]]:
    aws = Aws(AwsAccess(REGION))
    clock = Clock(monotonic=lambda: 0.0, sleep=lambda seconds: None, uniform=lambda low, high: high)
    with Stubber(aws.client("sqs")) as stub:
        for url, name in ((DEAD, "dead"), (QUEUE, "tasks")):
            stub.add_response(
                "get_queue_attributes", {"Attributes": {"QueueArn": f"arn:aws:sqs:us-west-2:1:{name}"}},
                {"QueueUrl": url, "AttributeNames": ["QueueArn"]},
            )  # fmt: skip
        arns = {
            "SourceArn": "arn:aws:sqs:us-west-2:1:dead",
            "DestinationArn": "arn:aws:sqs:us-west-2:1:tasks",
        }
        stub.add_response("start_message_move_task", {"TaskHandle": "h"}, arns)
        yield Queues(aws, clock), stub


def moving(status: str, moved: int, **more: Any) -> dict[str, Any]:
    return {"Results": [{"Status": status, "ApproximateNumberOfMessagesMoved": moved, **more}]}


def test_a_redrive_on_aws_is_followed_to_its_end(sqs: tuple[Queues, Stubber]) -> None:
    queues, stub = sqs
    for answer in (moving("RUNNING", 3), moving("RUNNING", 7), moving("COMPLETED", 9)):
        stub.add_response("list_message_move_tasks", answer)
    told: list[int] = []
    assert queues.redrive(DEAD, QUEUE, told.append) == 9
    assert told == [3, 7, 9]
    stub.assert_no_pending_responses()


@pytest.mark.parametrize("status", ["FAILED", "CANCELLED", "SOMETHING_NEW"])
def test_a_redrive_that_does_not_complete_is_an_error_with_the_reason(
    sqs: tuple[Queues, Stubber], status: str
) -> None:
    queues, stub = sqs
    stub.add_response("list_message_move_tasks", moving(status, 1, FailureReason="AccessDenied"))
    with pytest.raises(AwsError, match=f"{status}: AccessDenied"):
        queues.redrive(DEAD, QUEUE, lambda moved: None)


# ---- On this machine ---------------------------------------------------------------------------
@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    root = tmp_path_factory.mktemp("runtime-commands")
    (root / "work").mkdir()
    farm = Farm(root / "work", root / "home")
    farm.deploy()
    yield farm
    farm.destroy()


def json_of(farm: Farm, *words: str) -> Any:
    return json.loads(farm.run(*words, "-o", "json").stdout)


def children(farm: Farm) -> dict[str, int]:
    return {child["name"]: child["pid"] for child in farm.status()["children"]}


def queue_row(farm: Farm) -> dict[str, Any]:
    row: dict[str, Any] = json_of(farm, "queue", "depth")["queues"][0]
    return row


def test_a_paused_runtime_leaves_tasks_in_the_queue_until_it_is_resumed(farm: Farm) -> None:
    before = children(farm)
    assert json_of(farm, "runtime", "pause") == {"runtime": "sdruntime", "state": "paused", "replicas": 0}
    assert children(farm) == {name: pid for name, pid in before.items() if name != "agent-sdruntime"}
    task = json_of(farm, "submit", "t2i", "A dog")
    eventually(lambda: queue_row(farm)["waiting"] == 1, "the task in the queue")
    assert farm.call("GET", f"v1alpha2/tasks/{task['id']}").body["status"] == "queued"
    farm.run("runtime", "pause")  # twice changes nothing
    farm.run("runtime", "resume", "sdruntime")
    assert farm.ended(task["id"])["status"] == "completed"
    assert queue_row(farm) == {
        "runtime": "sdruntime", "type": "sdwebui", "waiting": 0, "running": 0, "dead_letters": 0,
    }  # fmt: skip


def test_restart_replaces_server_and_agent_and_nothing_else(farm: Farm) -> None:
    before = children(farm)
    farm.run("runtime", "restart")
    after = children(farm)
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] == before[name]] == ["emulator"]


def test_warming_more_than_this_machine_runs_is_refused(farm: Farm) -> None:
    assert farm.run("runtime", "warm", "2", check=False).returncode == 2
    assert farm.run("runtime", "warm", "1").returncode == 0


def test_an_unknown_runtime_is_not_found_here_either(farm: Farm) -> None:
    for words in (("runtime", "pause", "other"), ("queue", "depth", "other"), ("queue", "redrive", "other")):
        assert farm.run(*words, check=False).returncode == 4


def test_letters_are_moved_back_with_all_that_they_carry(farm: Farm) -> None:
    sqs = farm.client("sqs")
    dead, tasks = (sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("letters", "tasks"))
    why = {"why": {"DataType": "String", "StringValue": "a test"}}
    for number in range(12):
        sqs.send_message(QueueUrl=dead, MessageBody=str(number), MessageAttributes=why)
    told: list[int] = []
    queues = Queues(Aws(LocalTarget(farm.home, STACK, farm.folder).access()))
    assert queues.redrive_ourselves(dead, tasks, told.append) == told[-1] == 12
    received = []
    for _ in range(2):
        asked = {"MaxNumberOfMessages": 10, "MessageAttributeNames": ["All"], "WaitTimeSeconds": 1}
        received += sqs.receive_message(QueueUrl=tasks, **asked).get("Messages", [])
    assert sorted(int(one["Body"]) for one in received) == list(range(12))
    assert all(one["MessageAttributes"]["why"]["StringValue"] == "a test" for one in received)
    assert queues.redrive_ourselves(dead, tasks, told.append) == 0


def test_purge_asks_and_then_empties_the_queue(farm: Farm) -> None:
    farm.run("runtime", "pause")
    assert json_of(farm, "queue", "redrive")["moved"] == 0
    sqs, url = farm.client("sqs"), farm.outputs["QueueUrlSdruntime"]
    sqs.send_message(QueueUrl=url, MessageBody="one more")
    assert farm.run("queue", "purge", "sdruntime", check=False).returncode == 2
    assert queue_row(farm)["waiting"] == 1
    purged = json_of(farm, "queue", "purge", "sdruntime", "--yes")
    assert purged == {"runtime": "sdruntime", "dead_letters": False, "purged": 1}
    assert queue_row(farm)["waiting"] == 0
    farm.deploy()  # lets a paused runtime run again
    assert "agent-sdruntime" in children(farm)
