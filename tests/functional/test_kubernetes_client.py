"""The Kubernetes client over real HTTPS: what is sent, and what happens when the server is not well."""

from __future__ import annotations

import json
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sdctl.clients import kubernetes as k8s
from sdctl.clients import kubernetes_http
from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.cluster_access import ClusterAccess, Token, TokenSource
from sdctl.clients.kubernetes import Kubernetes
from sdctl.clients.kubernetes_http import KubernetesError
from sdctl.clients.kubernetes_objects import read_claim, read_node, read_scaling, read_workload
from sdctl.errors import ConflictError, NotFoundError, WaitTimeoutError
from sdctl.polling import Clock
from support.eks_tokens import is_good
from support.kubernetes_api import KubernetesApi, make_certificate

FOREVER = datetime.max.replace(tzinfo=UTC)
DEPLOYMENT = {
    "metadata": {"name": "web", "namespace": "default", "annotations": {"a": "1"}},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "m", "image": "i"}]},
        },
    },
}


class SkippingClock:
    """A clock whose sleeps take no time and let something happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.then: Callable[[], None] = lambda: None

    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.now, sleep=self._sleep, uniform=lambda low, high: high)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        self.then()


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    with KubernetesApi(ready_seconds=0) as server:
        yield server


@pytest.fixture
def clock() -> SkippingClock:
    return SkippingClock()


def access(api: KubernetesApi) -> ClusterAccess:
    return ClusterAccess("farm", "arn", api.url, api.authority, "us-west-2")


def tokens(*values: str) -> TokenSource:
    given = iter(values or ("good",))
    return TokenSource(lambda: Token(next(given), FOREVER))


@pytest.fixture
def client(api: KubernetesApi, clock: SkippingClock) -> Iterator[Kubernetes]:
    with Kubernetes(access(api), tokens(), clock=clock.clock()) as made:
        yield made


def test_the_version_is_read_with_our_token(api: KubernetesApi, client: Kubernetes) -> None:
    assert client.server_version() == "1.36"
    assert api.requests[-1].token == "good"


def test_an_object_is_applied_read_changed_and_deleted(client: Kubernetes) -> None:
    client.apply(k8s.DEPLOYMENTS, DEPLOYMENT)
    found = client.wait(
        k8s.DEPLOYMENTS, "web", lambda one: read_workload(one).is_settled, awaited="web", timeout_seconds=5,
        namespace="default",
    )  # fmt: skip
    assert read_workload(found).ready == 2
    client.annotate(k8s.DEPLOYMENTS, "web", {"a": None, "b": "2"}, "default")
    assert client.get(k8s.DEPLOYMENTS, "web", "default")["metadata"]["annotations"] == {"b": "2"}
    assert client.delete(k8s.DEPLOYMENTS, "web", "default") is True
    assert client.delete(k8s.DEPLOYMENTS, "web", "default") is False
    assert client.find(k8s.DEPLOYMENTS, "web", "default") is None


def test_applying_again_removes_what_is_no_longer_said(api: KubernetesApi, client: Kubernetes) -> None:
    client.apply(k8s.NODE_POOLS, {"metadata": {"name": "gpu"}, "spec": {"weight": 5, "limits": {"cpu": "8"}}})
    api.edit("NodePool", "gpu", "", {"metadata": {"labels": {"theirs": "yes"}}})
    client.apply(k8s.NODE_POOLS, {"metadata": {"name": "gpu"}, "spec": {"limits": {"cpu": "8"}}})
    found = client.get(k8s.NODE_POOLS, "gpu")
    assert found["spec"] == {"limits": {"cpu": "8"}}
    assert found["metadata"]["labels"] == {"theirs": "yes"}


def test_applying_the_same_again_changes_nothing(client: Kubernetes) -> None:
    first = client.apply(k8s.DEPLOYMENTS, DEPLOYMENT)
    second = client.apply(k8s.DEPLOYMENTS, DEPLOYMENT)
    assert first["metadata"]["generation"] == second["metadata"]["generation"]
    assert first["spec"] == second["spec"]


def test_a_field_of_anothers_is_a_conflict_unless_forced(api: KubernetesApi, client: Kubernetes) -> None:
    client.apply(k8s.DEPLOYMENTS, DEPLOYMENT)
    api.edit("Deployment", "web", "default", {"spec": {"replicas": 7}}, manager="autoscaler")
    with pytest.raises(ConflictError, match=r'conflict with "autoscaler": \.spec\.replicas'):
        client.apply(k8s.DEPLOYMENTS, DEPLOYMENT, force=False)
    assert client.apply(k8s.DEPLOYMENTS, DEPLOYMENT)["spec"]["replicas"] == 2


def test_a_list_is_read_page_by_page_with_its_selectors(
    api: KubernetesApi, client: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(k8s, "PAGE_SIZE", 2)
    for number in range(5):
        api.put("Pod", f"p{number}", "default", metadata={"labels": {"app": "x" if number else "y"}})
    names = [one["metadata"]["name"] for one in client.list(k8s.PODS, "default", labels="app=x")]
    assert names == ["p1", "p2", "p3", "p4"]
    assert [r.query.get("continue") for r in api.requests] == [None, "2"]


def test_a_kind_that_is_not_installed_has_no_objects(client: Kubernetes) -> None:
    missing = k8s.Kind("keda.sh", "v9", "scaledobjects", "ScaledObject")
    assert client.list(missing) == []
    with pytest.raises(NotFoundError):
        client.get(missing, "x", "default")


def test_a_name_cannot_leave_its_path(api: KubernetesApi, client: Kubernetes) -> None:
    assert client.find(k8s.PODS, "../../../version", "default") is None
    assert k8s.PODS.path("a/b", "c?d") == "/api/v1/namespaces/a%2Fb/pods/c%3Fd"


def test_a_refused_token_is_renewed_once(api: KubernetesApi, clock: SkippingClock) -> None:
    api.authenticate = lambda token: token == "new"
    with Kubernetes(access(api), tokens("old", "new"), clock=clock.clock()) as client:
        assert client.server_version() == "1.36"
    assert [one.token for one in api.requests] == ["old", "new"]


def test_credentials_without_access_are_an_error_that_says_what_to_do(
    api: KubernetesApi, clock: SkippingClock
) -> None:
    api.authenticate = lambda token: False
    with (
        Kubernetes(access(api), tokens("a", "b"), clock=clock.clock()) as client,
        pytest.raises(KubernetesError, match="Unauthorized") as caught,
    ):
        client.list(k8s.NODES)
    assert (caught.value.status, len(api.requests)) == (401, 2)
    assert "access entry" in caught.value.hint


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(
    api: KubernetesApi, client: Kubernetes, clock: SkippingClock, status: int
) -> None:
    api.failures = [(status, {"Retry-After": "3600"})] * 2
    assert client.server_version() == "1.36"
    assert clock.slept == [0.5, 1.0]


def test_a_server_that_stays_busy_is_given_up(
    api: KubernetesApi, client: Kubernetes, clock: SkippingClock
) -> None:
    api.failures = [(503, {})] * 9
    with pytest.raises(KubernetesError, match="injected by the test") as caught:
        client.server_version()
    assert (caught.value.status, len(clock.slept)) == (503, 3)


def test_a_refusal_is_not_repeated(api: KubernetesApi, client: Kubernetes) -> None:
    api.failures = [(403, {})]
    with pytest.raises(KubernetesError) as caught:
        client.server_version()
    assert (caught.value.status, len(api.requests)) == (403, 1)
    assert "too few rights" in caught.value.hint


def test_a_redirect_is_not_followed(api: KubernetesApi, client: Kubernetes) -> None:
    api.failures = [(307, {"Location": "https://127.0.0.1:1/"})]
    with pytest.raises(KubernetesError):
        client.server_version()
    assert len(api.requests) == 1


def test_an_answer_that_is_too_large_is_refused(
    api: KubernetesApi, client: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_http, "MAX_ANSWER_BYTES", 1000)
    api.raw_answer = b'{"a":"' + b"x" * 5000 + b'"}'
    with pytest.raises(KubernetesError, match="larger than 1000 bytes"):
        client.server_version()


def test_an_answer_without_a_length_is_read_to_its_end(api: KubernetesApi, client: Kubernetes) -> None:
    items = [{"metadata": {"name": f"pod-{number}"}} for number in range(20_000)]
    api.raw_answer = json.dumps({"items": items}).encode()
    assert [one["metadata"]["name"] for one in client.list(k8s.PODS)][-1] == "pod-19999"


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"", b"[" * 100_000, b"\xff\xfe"])
def test_an_answer_that_is_no_object_is_refused(
    api: KubernetesApi, client: Kubernetes, answer: bytes
) -> None:
    api.raw_answer = answer
    with pytest.raises(KubernetesError, match=r"no (JSON|object)"):
        client.server_version()


def test_a_server_that_is_not_the_clusters_is_not_trusted(api: KubernetesApi, clock: SkippingClock) -> None:
    other = replace(access(api), authority=b64encode(make_certificate()[1].encode()).decode())
    with (
        Kubernetes(other, tokens(), clock=clock.clock()) as client,
        pytest.raises(KubernetesError, match=r"no answer from https://127"),
    ):
        client.server_version()
    assert api.requests == []


def test_a_server_that_is_not_there_is_said_so(api: KubernetesApi, clock: SkippingClock) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        gone = replace(access(api), endpoint=f"https://127.0.0.1:{taken.getsockname()[1]}")
        with (
            Kubernetes(gone, tokens(), clock=clock.clock()) as client,
            pytest.raises(KubernetesError, match="refused") as caught,
        ):
            client.server_version()
    assert "publicAccessCidrs" in caught.value.hint


def test_a_server_that_says_nothing_is_given_up(api: KubernetesApi, clock: SkippingClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        quiet = replace(access(api), endpoint=f"https://127.0.0.1:{silent.getsockname()[1]}")
        with (
            Kubernetes(quiet, tokens(), clock=clock.clock(), request_timeout_seconds=0.1) as client,
            pytest.raises(KubernetesError, match="no answer"),
        ):
            client.server_version()


def test_a_proxy_of_the_environment_is_used_unless_told_otherwise(
    api: KubernetesApi, clock: SkippingClock
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        seen: list[bytes] = []

        def serve() -> None:
            for _ in range(4):
                connection, _ = proxy.accept()
                seen.append(connection.recv(200).partition(b"\r\n")[0])
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        env = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.getsockname()[1]}"}
        with (
            Kubernetes(access(api), tokens(), environment=env, clock=clock.clock()) as client,
            pytest.raises(KubernetesError),
        ):
            client.server_version()
        thread.join(10)
    assert seen[0].startswith(b"CONNECT 127.0.0.1:")
    with Kubernetes(access(api), tokens(), environment=env | {"NO_PROXY": "127.0.0.1"}) as client:
        assert client.server_version() == "1.36"


def test_a_connected_client_signs_in_with_the_sessions_credentials(api: KubernetesApi) -> None:
    api.authenticate = lambda token: is_good(token, "farm")
    with k8s.connect(Aws(AwsAccess(region="us-west-2")), access(api)) as client:
        assert client.server_version() == "1.36"


def test_a_wait_says_what_it_last_saw(api: KubernetesApi, client: Kubernetes) -> None:
    api.put("NodePool", "gpu", spec={})
    with pytest.raises(WaitTimeoutError, match="waiting for the pool; last seen: still there"):
        client.wait(
            k8s.NODE_POOLS, "gpu", lambda _: False, awaited="the pool", timeout_seconds=30,
            describe=lambda _: "still there",
        )  # fmt: skip


def test_the_end_of_what_finalizers_hold_is_waited_for(
    api: KubernetesApi, client: Kubernetes, clock: SkippingClock
) -> None:
    api.put("NodePool", "gpu", spec={})
    uid = api.objects("NodePool")[0]["metadata"]["uid"]
    held = {"finalizers": ["karpenter.sh/termination"], "ownerReferences": [{"uid": uid}]}
    api.put("NodeClaim", "gpu-1", metadata=held, spec={})
    client.delete(k8s.NODE_POOLS, "gpu")
    assert read_claim(client.get(k8s.NODE_CLAIMS, "gpu-1")).is_ending
    with pytest.raises(WaitTimeoutError, match="the end of nodeclaims; last seen: 1 left: gpu-1"):
        client.wait_gone(k8s.NODE_CLAIMS, timeout_seconds=10)
    clock.then = lambda: api.edit("NodeClaim", "gpu-1", "", {"metadata": {"finalizers": None}})
    client.wait_gone(k8s.NODE_CLAIMS, timeout_seconds=10)


def test_nodes_and_scaled_objects_are_read(api: KubernetesApi, client: Kubernetes) -> None:
    api.put(
        "Node", "ip-10-0-0-1",
        metadata={"labels": {
            "karpenter.sh/capacity-type": "spot", "karpenter.sh/nodepool": "gpu",
            "node.kubernetes.io/instance-type": "g6.2xlarge", "topology.kubernetes.io/zone": "us-west-2a",
        }},
        spec={"providerID": "aws:///us-west-2a/i-0abc"},
        status={"conditions": [{"type": "Ready", "status": "True"}]},
    )  # fmt: skip
    node = read_node(client.list(k8s.NODES)[0])
    assert (node.instance_type, node.zone, node.capacity) == ("g6.2xlarge", "us-west-2a", "spot")
    assert (node.is_ready, node.instance_id, node.node_pool) == (True, "i-0abc", "gpu")
    assert node.created_at is not None
    assert node.created_at.tzinfo is UTC
    paused = {"annotations": {"autoscaling.keda.sh/paused-replicas": "0"}}
    spec = {"scaleTargetRef": {"name": "rt"}, "maxReplicaCount": 5}
    api.put("ScaledObject", "rt", "default", metadata=paused, spec=spec)
    scaling = read_scaling(client.get(k8s.SCALED_OBJECTS, "rt", "default"))
    assert (scaling.target, scaling.minimum, scaling.maximum, scaling.is_paused) == ("rt", 0, 5, True)
