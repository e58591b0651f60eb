"""The small programs that the chart puts into a pod, run as the pod runs them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import cel
import pytest

from support import chart, chart_registry
from support.kubernetes_api import KubernetesApi
from support.sketch import sketch

SMALL = Path(__file__).resolve().parents[1] / "support" / "charts" / "small"


def run(script: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", str(chart.CHART / "files" / script), *words],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@contextmanager
def answering(get: Callable[[], str]) -> Iterator[str]:
    """Serve one text."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = get().encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def until(probe: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.02)


def test_the_warm_up_is_a_request_that_the_server_takes(tmp_path: Path) -> None:
    objects = chart.render_ci("sdwebui")
    body = tmp_path / "warm_up.json"
    body.write_text(chart.find(objects, "ConfigMap")["data"]["warm_up.json"])
    command = chart.container(objects, "warm-up")["command"]
    assert command[:2] == ["python3", "/etc/sd-runtime/warm_up.py"]
    with sketch("sdwebui") as server:
        done = run("warm_up.py", command[2].replace("http://127.0.0.1:8080", server.url), str(body))
    assert done.returncode == 0
    assert json.loads(done.stderr)["answer"] == "200"


@pytest.mark.parametrize("path", ["/no-such-path", ""])
def test_a_server_that_refuses_or_is_gone_stands_in_no_ones_way(path: str, tmp_path: Path) -> None:
    (tmp_path / "body").write_text("{}")
    if path:
        with answering(lambda: "") as url:
            done = run("warm_up.py", url + path, str(tmp_path / "body"))
    else:
        done = run("warm_up.py", "http://127.0.0.1:1/", str(tmp_path / "body"))
    assert done.returncode == 0
    assert json.loads(done.stderr)["answer"] == ("501" if path else "URLError")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """Serve an archive that holds one folder: its address, its content, and what trusts the server."""
    served = {"small": chart_registry.Served(SMALL)}
    with chart_registry.chart_registry(served, tmp_path, is_tls=True) as registry:
        content = served["small"].packed()
        yield f"{registry.repository}/small-1.2.3.tgz", content, {"SSL_CERT_FILE": str(registry.authority)}


def manifest(folder: Path, url: str, sha256: str) -> Path:
    path = folder / "custom_nodes.json"
    path.write_text(json.dumps([{"name": "small", "url": url, "sha256": sha256}]))
    return path


def test_custom_nodes_are_unpacked_without_their_outer_folder(
    nodes: tuple[str, bytes, dict[str, str]], tmp_path: Path
) -> None:
    url, content, trusting = nodes
    target = tmp_path / "nodes"
    target.mkdir()
    for _ in range(2):  # as after a restart of the container
        path = manifest(tmp_path, url, hashlib.sha256(content).hexdigest())
        done = run("custom_nodes.py", str(path), str(target), **trusting)
        assert done.returncode == 0, done.stderr
    assert sorted(one.name for one in (target / "small").iterdir()) == [
        "Chart.yaml",
        "templates",
        "values.yaml",
    ]
    assert [one.name for one in target.iterdir()] == ["small"]
    assert (target / "small").stat().st_mode & 0o777 == 0o755


def test_nothing_is_unpacked_of_an_archive_that_is_another(
    nodes: tuple[str, bytes, dict[str, str]], tmp_path: Path
) -> None:
    url, _, trusting = nodes
    target = tmp_path / "nodes"
    target.mkdir()
    done = run("custom_nodes.py", str(manifest(tmp_path, url, "0" * 64)), str(target), **trusting)
    assert done.returncode == 1
    assert "has the SHA-256" in done.stderr
    assert not list(target.iterdir())


def test_only_https_is_asked(tmp_path: Path) -> None:
    for url in ("http://example.com/a.zip", "file:///etc/passwd"):
        done = run("custom_nodes.py", str(manifest(tmp_path, url, "0" * 64)), str(tmp_path))
        assert (done.returncode, done.stderr.strip()) == (1, f"{url}: not https")


def script(name: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "script"}
    exec(compile((chart.CHART / "files" / name).read_text(), name, "exec"), namespace)
    return namespace


def zipped(names: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return packed.getvalue()


def tarred(name: str, **fields: Any) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(entry, field, value)
        archive.addfile(entry, io.BytesIO(b"x" * entry.size))
    return packed.getvalue()


def test_an_archive_cannot_leave_its_folder(tmp_path: Path) -> None:
    unpack = script("custom_nodes.py")["unpack"]
    (tmp_path / "in").mkdir()
    unpack(zipped({"../../out.py": b"", "/abs.py": b"", "a/__init__.py": b""}), tmp_path / "in" / "node")
    for content in (
        tarred("../../out.py", size=1),
        tarred("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    ):
        with pytest.raises(tarfile.FilterError):
            unpack(content, tmp_path / "in" / "node")
    assert sorted(one.name for one in tmp_path.rglob("*.py")) == ["__init__.py", "abs.py", "out.py"]
    assert all((tmp_path / "in" / "node") in one.parents for one in tmp_path.rglob("*.py"))


def test_an_archive_that_swells_is_refused(tmp_path: Path) -> None:
    names = script("custom_nodes.py")
    names["MAX_UNPACKED_BYTES"] = 1000
    names["unpack"](zipped({"a.py": b"x" * 1000}), tmp_path / "fits")
    with pytest.raises(SystemExit, match="more than 1000 bytes"):
        names["unpack"](zipped({"a.py": b"x" * 1001}), tmp_path / "too-large")


def test_a_busy_pod_says_so_and_an_idle_one_too(tmp_path: Path) -> None:
    in_flight = ["0.0"]
    token = tmp_path / "token"
    token.write_text("good")
    (tmp_path / "namespace").write_text("farm")
    with (
        KubernetesApi(authenticate=lambda token: token == "good") as api,
        answering(lambda: f"# HELP x\nsd_agent_in_flight_messages {in_flight[0]}\n") as url,
    ):
        (tmp_path / "ca.crt").write_bytes(base64.b64decode(api.authority))
        api.put("Namespace", "farm")
        api.put("Pod", "pod-1", "farm", spec={"containers": []})
        host, port = api.url.removeprefix("https://").split(":")
        process = subprocess.Popen(
            [sys.executable, "-I", str(chart.CHART / "files" / "deletion_cost.py"), url, str(tmp_path)],
            env={"POD_NAME": "pod-1", "KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port},
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

        def cost() -> str | None:
            [found] = api.objects("Pod")
            annotations = found["metadata"].get("annotations", {})
            return annotations.get("controller.kubernetes.io/pod-deletion-cost")

        try:
            until(lambda: cost() == "0")
            in_flight[0] = "2.0"
            until(lambda: cost() == "1000")
            token.write_text("expired")
            in_flight[0] = "0.0"
            time.sleep(1.3)
            assert cost() == "1000"
            token.write_text("good")
            until(lambda: cost() == "0")
        finally:
            os.kill(process.pid, signal.SIGTERM)
            _, said = process.communicate(timeout=10)
        patches = [one for one in api.requests if one.method == "PATCH"]
    assert process.returncode == 0
    assert len(said.splitlines()) == 1  # one failure, however often it is tried again
    assert len(patches) < 9


POLICY = "working-hours"


def admitted(old: dict[str, Any], new: dict[str, Any], pod: str = "pod-1") -> bool:
    """Judge a change as the admission policy does."""
    spec = chart.find(chart.render_ci(POLICY), "ValidatingAdmissionPolicy")["spec"]
    user = {
        "username": f"system:serviceaccount:{chart.NAMESPACE}:{chart.RELEASE}",
        "extra": {"authentication.kubernetes.io/pod-name": [pod]},
    }
    context = cel.Context(variables={"object": new, "oldObject": old, "request": {"userInfo": user}})
    assert all(cel.evaluate(one["expression"], context) for one in spec["matchConditions"])
    return all(cel.evaluate(one["expression"], context) for one in spec["validations"])


def test_the_token_of_a_pod_changes_nothing_but_its_own_deletion_cost() -> None:
    cost = {"controller.kubernetes.io/pod-deletion-cost": "1000"}
    old = {"metadata": {"name": "pod-1", "labels": {"a": "b"}, "annotations": {"c": "d"}}, "spec": {"x": 1}}

    def changed(**metadata: Any) -> dict[str, Any]:
        return {**old, "metadata": {**old["metadata"], **metadata}}

    with_cost = changed(annotations={"c": "d", **cost})
    assert admitted(old, with_cost)
    assert admitted(with_cost, changed(annotations={"c": "d", **cost, next(iter(cost)): "0"}))
    bare = {"metadata": {"name": "pod-1"}, "spec": {"x": 1}}
    assert admitted(bare, {**bare, "metadata": {"name": "pod-1", "annotations": cost}})
    assert not admitted(old, with_cost, pod="pod-2")
    refused = [
        changed(annotations={**cost}),
        changed(annotations={"c": "other", **cost}),
        changed(annotations={"c": "d", "e": "f"}),
        changed(labels={"a": "other"}),
        changed(finalizers=["x"]),
        changed(ownerReferences=[]),
        {**with_cost, "spec": {"x": 2}},
    ]
    assert [admitted(old, one) for one in refused] == [False] * len(refused)
