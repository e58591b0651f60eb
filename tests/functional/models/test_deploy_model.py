"""The guide's default model: offered by a deploy, brought after it, and missed by a submit."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import pytest

from fakes.model_sources import Sources
from functional.models.conftest import Desk
from sdctl.cli import context, deploy_model
from sdctl.config.load import Overrides, load_config
from sdctl.config.model import Config
from sdctl.contract import DEFAULT_CHECKPOINT
from sdctl.deployments import Deployment, Deployments, home
from sdctl.errors import SdctlError
from support import cli
from support.model_files import kind
from support.task_api_server import TaskApiServer, running_server

KEY = f"Stable-diffusion/{DEFAULT_CHECKPOINT}"
REPO = "stable-diffusion-v1-5/stable-diffusion-v1-5"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def terminal() -> Iterator[Terminal]:
    """Sit at a terminal and answer yes."""
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(Terminal()) as shown:
        patch.setattr("sys.stdin", Terminal("y\n"))
        yield shown


@pytest.fixture
def config(desk: Desk) -> Config:
    return load_config(None, Overrides(), {}).config


@pytest.fixture
def deployment(desk: Desk) -> Deployment:
    return Deployment(
        stack_name="sdoneks", region="us-west-2", target="aws", folder=str(Path.cwd()),
        outputs={"ModelBucket": desk.bucket},
    )  # fmt: skip


def test_a_person_is_asked_before_the_deploy_and_the_model_comes(
    desk: Desk, sources: Sources, config: Config, deployment: Deployment
) -> None:
    sources.add_hugging_face(REPO, {DEFAULT_CHECKPOINT: kind("sd1"), "other.safetensors": kind("sd1")})
    with terminal() as shown:
        assert deploy_model.offer_default(config, desk.aws, desk.bucket)
        assert f"sdruntime needs {DEFAULT_CHECKPOINT}, which is not in {desk.bucket}" in shown.getvalue()
        deploy_model.bring_default(deployment)
        assert desk.keys() == [KEY]
        assert deploy_model.tell_missing(config, deployment).missing_models == {}
        assert not deploy_model.offer_default(config, desk.aws, desk.bucket)


def test_a_bucket_that_the_deploy_will_make_lacks_it(desk: Desk, config: Config) -> None:
    with terminal():
        assert deploy_model.offer_default(config, desk.aws, "not-there-yet")


@pytest.mark.parametrize(
    "options", [context.Options(yes=True), context.Options(quiet=True), context.Options(output="json")]
)
def test_who_cannot_or_need_not_answer_is_not_asked(
    desk: Desk, config: Config, options: context.Options
) -> None:
    context.reset(options)
    try:
        with terminal() as shown:
            assert not deploy_model.offer_default(config, desk.aws, desk.bucket)
    finally:
        context.reset(context.Options())
    assert shown.getvalue() == ""


def test_without_a_terminal_nobody_is_asked(desk: Desk, config: Config) -> None:
    assert not deploy_model.offer_default(config, desk.aws, desk.bucket)


def test_a_model_of_ones_own_is_not_offered_but_named(desk: Desk, deployment: Deployment) -> None:
    Path("sdctl.yaml").write_text(
        "modelsRuntime:\n  - {name: a, namespace: a, type: sdwebui, modelFilename: mine.safetensors}\n"
    )
    config = load_config(None, Overrides(), {}).config
    with terminal() as shown:
        assert not deploy_model.offer_default(config, desk.aws, desk.bucket)
        assert deploy_model.tell_missing(config, deployment).missing_models == {"a": "mine.safetensors"}
    assert "Next: sdctl models upload mine.safetensors --to Stable-diffusion" in shown.getvalue()


def test_a_model_that_does_not_come_is_an_error(desk: Desk, sources: Sources, deployment: Deployment) -> None:
    sources.add_hugging_face(REPO, {DEFAULT_CHECKPOINT: b"<html>sign in</html>"})
    with pytest.raises(SdctlError, match="web page"):
        deploy_model.bring_default(deployment)
    assert desk.keys() == []


@pytest.fixture
def server(desk: Desk) -> Iterator[TaskApiServer]:
    with running_server() as running:
        yield running


def test_a_submit_says_what_its_runtime_waits_for_until_it_is_there(
    desk: Desk, server: TaskApiServer, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    endpoint, key = server.env["SDCTL_ENDPOINT"], server.env["SDCTL_API_KEY"]
    waiting = replace(
        deployment, outputs={**deployment.outputs, "FrontApiEndpoint": endpoint}, api_key=key,
        runtimes={"sdruntime": "sdwebui"}, missing_models={"sdruntime": DEFAULT_CHECKPOINT},
    )  # fmt: skip
    records = Deployments(home(os.environ))
    records.record(waiting)
    warned = cli.run("submit", "t2i", "A dog", "--runtime", "sdruntime")
    assert warned.code == 0, warned.stderr
    assert f"sdruntime waits for {DEFAULT_CHECKPOINT}" in warned.stderr
    assert f"sdctl models upload hf:{REPO}/{DEFAULT_CHECKPOINT}" in warned.stderr
    desk.client.put_object(Bucket=desk.bucket, Key=KEY, Body=b"x")
    assert "waits for" not in cli.run("submit", "t2i", "A dog", "--runtime", "sdruntime").stderr
    # From then on nobody looks any more.
    monkeypatch.setattr("sdctl.clients.s3.S3.keys", None)
    assert cli.run("submit", "t2i", "A dog", "--runtime", "sdruntime").code == 0
