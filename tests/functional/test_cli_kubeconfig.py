"""`sdctl kubeconfig` and `sdctl token`, up to real kubectl and helm that get in with our token."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import boto3
import pytest
import yaml
from moto import mock_aws

from sdctl.cli import token
from sdctl.clients.cluster_access import ClusterAccess, Token
from sdctl.clients.helm import Helm, Outcome
from sdctl.clients.kubeconfig import cluster_config
from sdctl.deployments import Deployment, Deployments
from sdctl.releases import Chart, Release
from support import cli, helm_tools
from support.eks_tokens import ACCESS_KEY, SECRET_KEY, is_good, problem_with
from support.kubernetes_api import KubernetesApi

CHART = Path(__file__).resolve().parents[1] / "support" / "charts" / "small"
SUBNETS = ["subnet-12345678", "subnet-87654321"]


@pytest.fixture
def eks() -> Iterator[str]:
    """A cluster named `farm` on an emulated EKS; yields its address."""
    with mock_aws():
        client = boto3.client("eks", region_name="us-west-2")
        made = client.create_cluster(
            name="farm",
            roleArn="arn:aws:iam::123456789012:role/eks",
            resourcesVpcConfig={"subnetIds": SUBNETS},
        )
        yield str(made["cluster"]["endpoint"])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(home: Path, target: str) -> None:
    deployment = Deployment(
        "farm", "us-west-2", target, str(home), {}, deployed_at=datetime.now(UTC).isoformat()
    )
    Deployments(Path(os.environ["SDCTL_HOME"])).record(deployment)


def test_the_cluster_becomes_the_current_context_of_the_users_file(home: Path, eks: str) -> None:
    ran = cli.run("kubeconfig", "-n", "farm", "-R", "us-west-2", "-o", "json")
    path = home / ".kube" / "config"
    found = yaml.safe_load(path.read_text())
    assert ran.document == {"path": str(path), "context": found["current-context"]}
    assert found["clusters"][0]["cluster"]["server"] == eks
    assert found["users"][0]["user"]["exec"]["args"][-4:] == ["--stack-name", "farm", "--region", "us-west-2"]


def test_another_file_can_be_named_and_the_profile_stays(
    home: Path, eks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "aws").write_text("[profile dev]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "aws"))
    ran = cli.run("kubeconfig", "-n", "farm", "-R", "us-west-2", "--profile", "dev", "--file", "here/it")
    assert (ran.code, ran.stdout) == (0, "here/it\n")
    assert "kubectl --kubeconfig here/it get nodes" in ran.stderr
    found = yaml.safe_load((home / "here" / "it").read_text())
    assert found["users"][0]["user"]["exec"]["args"][-2:] == ["--profile", "dev"]
    assert not (home / ".kube").exists()


def test_a_dash_prints_it_and_writes_nothing(home: Path, eks: str) -> None:
    ran = cli.run("kubeconfig", "-n", "farm", "-R", "us-west-2", "--file", "-", "--namespace", "gpu")
    assert yaml.safe_load(ran.stdout)["contexts"][0]["context"]["namespace"] == "gpu"
    assert not (home / ".kube").exists()


def test_the_last_deployment_of_the_folder_needs_no_options(
    home: Path, eks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)  # the emulator has set others
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    record(home, "aws")
    assert cli.run("kubeconfig").code == 0
    given = json.loads(cli.run("token").stdout)
    assert problem_with(given["status"]["token"], "farm") == ""


def test_a_cluster_that_does_not_exist_is_not_found(home: Path, eks: str) -> None:
    ran = cli.run("kubeconfig", "-n", "other", "-R", "us-west-2", "-o", "json")
    assert (ran.code, ran.error["code"]) == (4, "not_found")
    assert not (home / ".kube").exists()


@pytest.mark.parametrize("command", ["kubeconfig", "token"])
def test_the_local_target_says_in_one_line_why_it_cannot(home: Path, command: str) -> None:
    record(home, "local")
    for words in ([command], [command, "--target", "local"]):
        ran = cli.run(*words, "-o", "json")
        assert (ran.code, ran.error["code"], ran.error["hint"]) == (5, "no_cluster", "sdctl status")
        assert "\n" not in ran.error["message"]
        assert ran.stdout == ""


@pytest.mark.parametrize("command", ["kubeconfig", "token"])
def test_without_a_region_it_says_what_to_pass(home: Path, command: str) -> None:
    ran = cli.run(command, "-n", "farm", "-o", "json")
    assert (ran.code, ran.error["hint"]) == (3, "pass -R REGION, or set AWS_DEFAULT_REGION")


def test_the_stack_of_the_configuration_file_is_meant_where_nothing_is_deployed(home: Path) -> None:
    (home / "sdctl.yaml").write_text("stackName: barn\n")
    given = json.loads(cli.run("token", "-R", "us-west-2").stdout)
    assert problem_with(given["status"]["token"], "barn") == ""


def test_a_credential_says_when_it_is_over_in_the_version_that_is_asked_for() -> None:
    made = Token("k8s-aws-v1.x", datetime(2026, 11, 22, 10, 0, tzinfo=UTC))
    stable = token.credential(made, {})
    assert stable == {
        "kind": "ExecCredential",
        "apiVersion": "client.authentication.k8s.io/v1",
        "spec": {},
        "status": {"expirationTimestamp": "2026-11-22T10:00:00Z", "token": "k8s-aws-v1.x"},
    }
    beta = {"KUBERNETES_EXEC_INFO": '{"apiVersion": "client.authentication.k8s.io/v1beta1"}'}
    assert token.credential(made, beta)["apiVersion"].endswith("/v1beta1")
    for odd in ("", "{", "[]", '{"apiVersion": "v9"}'):
        assert token.credential(made, {"KUBERNETES_EXEC_INFO": odd})["apiVersion"].endswith("/v1")


def test_kubectl_and_helm_get_in_with_nothing_but_our_token(tmp_path: Path) -> None:
    kubectl, helm = helm_tools.kubectl(), helm_tools.helm(4)
    environment = cli.process_env({
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
    })  # fmt: skip
    with KubernetesApi(ready_seconds=0, authenticate=lambda given: is_good(given, "farm")) as api:
        access = ClusterAccess("farm", "arn:farm", api.url, api.authority, "us-west-2")
        document = cluster_config(access, namespace="farm")
        with Helm(helm, environment=environment, kubeconfig=document) as driven:
            outcome = driven.install(Release("web", "farm", Chart(str(CHART))), timeout_seconds=30)
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(document))
        shown = subprocess.run(
            [kubectl, "--kubeconfig", path, "get", "deployments", "--output", "name"],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        tokens = {request.token for request in api.requests}
    assert outcome is Outcome.INSTALLED
    assert (shown.stdout, shown.stderr) == ("deployment.apps/web\n", "")
    assert all(is_good(given, "farm") for given in tokens)
    assert not is_good(next(iter(tokens)), "barn")
