"""The life of a deployment on AWS: the real command line against all that it talks to but AWS itself."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from fakes.model_sources import model_sources
from sdctl.contract import DEFAULT_CHECKPOINT
from sdctl.iam.calls import Purpose
from support import aws_permissions
from support.aws_world import STACK, World, aws_world
from support.cli import Ran
from support.model_files import kind

RUNTIME = {"name": "comfy", "namespace": "comfy", "type": "comfyui", "dynamicModel": False}
STACKS = {"sdoneks-network", "sdoneks-cluster", "sdoneksStack", "sdoneks-runtime-sdruntime"}
RELEASES = {"kube-system/karpenter-crd", "kube-system/karpenter", "keda/keda", "sdruntime/sdruntime"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with aws_world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture(scope="module")
def deployed(world: World) -> World:
    ran = succeeded(world.run("deploy", "--yes"))
    assert "model-files" in ran.stderr  # doctor has looked, and its one warning does not stop a deploy
    assert "Next: sdctl models upload hf:" in ran.stderr
    return world


def succeeded(ran: Ran) -> Ran:
    assert ran.code == 0, f"{ran.stdout}\n{ran.stderr}"
    return ran


def changed_in_the_cluster(world: World, since: int) -> list[str]:
    """List the writes to the cluster; a server-side dry run writes nothing."""
    return [
        f"{one.method} {one.path}"
        for one in world.api.requests[since:]
        if one.method != "GET" and "dryRun" not in one.query
    ]


def changed_in_aws(world: World, since: int) -> list[str]:
    """List the calls that make, change or delete something, but for the lock that every deploy takes."""
    reads = ("Describe", "List", "Get", "Head", "GET", "HEAD", "Simulate", "Lookup")
    return [
        f"{call.service} {call.operation}"
        for call in world.proxy.calls[since:]
        if not call.operation.startswith(reads) and "/locks/" not in call.operation
    ]


def test_a_deploy_from_nothing_makes_every_stack_and_release(deployed: World) -> None:
    stacks = deployed.stacks()
    assert stacks.keys() == STACKS
    assert set(stacks.values()) == {"CREATE_COMPLETE"}
    assert deployed.releases() == dict.fromkeys(RELEASES, "deployed")
    account = deployed.client("eks").describe_cluster(name=STACK)["cluster"]
    assert account["tags"]["sdctl:stack"] == STACK


def test_its_outputs_are_the_guides_and_the_front_stacks_own(deployed: World) -> None:
    outputs = succeeded(deployed.run("outputs", "-o", "json")).document
    own = deployed.outputs(f"{STACK}Stack")
    for name in (
        "FrontApiEndpoint", "sdNotificationLambdaARN", "sdNotificationOutputARN", "sdNotificationOutputArn",
        "OutputS3Bucket", "GetAPIKeyCommand", "ConfigCommand",
    ):  # fmt: skip
        assert outputs[name] == own[name]


def test_a_second_deploy_changes_nothing(deployed: World) -> None:
    calls, requests = len(deployed.proxy.calls), len(deployed.api.requests)
    again = succeeded(deployed.deploy("-o", "json"))
    assert again.document["stack_name"] == STACK
    assert changed_in_aws(deployed, calls) == []
    assert changed_in_the_cluster(deployed, requests) == []


def test_a_person_at_a_terminal_is_offered_the_guides_model_and_gets_it(deployed: World) -> None:
    with model_sources() as sources:
        repo = "stable-diffusion-v1-5/stable-diffusion-v1-5"
        sources.add_hugging_face(repo, {DEFAULT_CHECKPOINT: kind("sd1")})
        apart = {"CALLS_FILE": str(deployed.calls_file("deploy-with-model")), **sources.environment()}
        shown = at_terminal(deployed, ["deploy", "--skip-doctor"], apart, answer="y")
    bucket = deployed.outputs(f"{STACK}Stack")["ModelBucket"]
    assert f"sdruntime needs {DEFAULT_CHECKPOINT}, which is not in {bucket}" in shown
    assert f"uploaded: Stable-diffusion/{DEFAULT_CHECKPOINT} (SD1 checkpoint" in shown
    assert "sdctl models upload" not in shown  # nothing is left to be brought
    s3 = deployed.client("s3")
    keys = [one["Key"] for one in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert f"Stable-diffusion/{DEFAULT_CHECKPOINT}" in keys
    for key in keys:
        s3.delete_object(Bucket=bucket, Key=key)


def at_terminal(world: World, words: list[str], environment: dict[str, str], *, answer: str) -> str:
    """Run a command whose standard streams are a terminal, and answer its questions; return what it shows."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sdctl", *words, "--target", "aws"], cwd=world.project,
        env=world.environment | {"TERM": "dumb"} | environment, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        os.write(ours, f"{answer}\n".encode())
        while select.select([ours], [], [], 60)[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the other end is closed: the command has ended
                break
        assert process.wait(10) == 0, shown.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return shown.decode()


def test_the_plan_of_what_is_deployed_has_nothing_to_do(deployed: World) -> None:
    plan = succeeded(deployed.run("deploy", "--plan", "-o", "json")).document
    assert {step["id"]: step["action"] for step in plan["steps"]} == {
        step["id"]: "none" for step in plan["steps"]
    }


def test_a_runtime_comes_changes_and_goes_and_nothing_else_is_touched(deployed: World) -> None:
    before = {name: fingerprint(deployed, name) for name in STACKS}
    first = deployed.config["modelsRuntime"]

    deployed.write_config(modelsRuntime=[*first, RUNTIME])
    succeeded(deployed.deploy())
    assert deployed.stacks().keys() == STACKS | {"sdoneks-runtime-comfy"}
    assert deployed.releases()["comfy/comfy"] == "deployed"

    scaled = {"runtime": {"scaling": {"maxReplicaCount": 3}}}
    deployed.write_config(modelsRuntime=[*first, RUNTIME | {"extraValues": scaled}])
    calls = len(deployed.proxy.calls)
    succeeded(deployed.deploy())
    assert "cloudformation CreateChangeSet" not in changed_in_aws(deployed, calls)
    [scaled_object] = deployed.api.objects("ScaledObject", "comfy")
    assert scaled_object["spec"]["maxReplicaCount"] == 3

    deployed.write_config(modelsRuntime=first)
    succeeded(deployed.deploy())
    assert deployed.stacks().keys() == STACKS
    assert "comfy/comfy" not in deployed.releases()
    assert deployed.api.objects("Deployment", "comfy") == []
    assert {name: fingerprint(deployed, name) for name in STACKS} == before


def fingerprint(world: World, stack: str) -> tuple[str, int]:
    """Say which events a stack has seen: any change adds some."""
    events = world.client("cloudformation").describe_stack_events(StackName=stack)["StackEvents"]
    return events[0]["EventId"], len(events)


def test_a_task_submitted_through_the_deployed_api_reaches_its_runtimes_queue(deployed: World) -> None:
    outputs = deployed.outputs(f"{STACK}Stack")
    key = deployed.client("apigateway").get_api_key(apiKey=outputs["ApiKeyId"], includeValue=True)["value"]
    path = f"restapis/{outputs['RestApiId']}/{outputs['ApiStageName']}/_user_request_/"
    access = {"SDCTL_ENDPOINT": f"{deployed.emulator_url}/{path}", "SDCTL_API_KEY": key}
    task = succeeded(deployed.run("submit", "t2i", "A dog", "-o", "json", environment=access)).document
    assert task["status"] == "queued"
    queue = deployed.outputs("sdoneks-runtime-sdruntime")["QueueUrl"]
    received = deployed.wait(
        lambda: deployed.client("sqs").receive_message(QueueUrl=queue, WaitTimeSeconds=1).get("Messages"),
        "the message",
    )
    assert task["id"] in received[0]["Body"]


def test_without_a_key_the_deployed_api_answers_401(deployed: World) -> None:
    outputs = deployed.outputs(f"{STACK}Stack")
    path = f"restapis/{outputs['RestApiId']}/{outputs['ApiStageName']}/_user_request_/v1alpha2/tasks"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{deployed.emulator_url}/{path}", timeout=10)
    with caught.value as answer:
        assert (answer.code, json.load(answer)["error"]["code"]) == (401, "unauthorized")


def test_status_shows_what_runs(deployed: World) -> None:
    deployed.controllers.demand("sdruntime", 1)
    deployed.wait(lambda: deployed.api.objects("NodeClaim"), "GPU node")
    status = succeeded(deployed.run("status", "-o", "json")).document
    assert "sdruntime" in json.dumps(status)
    text = succeeded(deployed.run("status")).stdout
    for word in ("sdoneks-cluster", "sdruntime", "g5.2xlarge"):
        assert word in text


def test_any_machine_that_may_can_ask_for_it(
    deployed: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = {"SDCTL_HOME": str(tmp_path_factory.mktemp("elsewhere"))}
    words = ("-n", STACK, "-R", "us-west-2", "-o", "json")
    outputs = succeeded(deployed.run("outputs", *words, environment=elsewhere)).document
    assert outputs["OutputS3Bucket"] == deployed.outputs(f"{STACK}Stack")["OutputS3Bucket"]
    succeeded(deployed.run("status", *words, environment=elsewhere))


def test_destroy_ends_a_deployment_at_work_and_proves_that_nothing_is_left(deployed: World) -> None:
    deployed.controllers.demand("sdruntime", 2)
    deployed.wait(lambda: len(deployed.api.objects("NodeClaim")) >= 2, "two GPU nodes")
    # What the CNI plug-in leaves now and then: https://github.com/aws/amazon-vpc-cni-k8s/issues/1223
    subnet = deployed.outputs("sdoneks-network")["PrivateSubnetIds"].split(",")[0]
    ec2 = deployed.client("ec2")
    left_over = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    tag = {"Key": "cluster.k8s.amazonaws.com/name", "Value": STACK}
    ec2.create_tags(Resources=[left_over], Tags=[tag])
    succeeded(deployed.run("destroy", "--yes", "--prove"))
    assert deployed.stacks() == {}
    assert deployed.left() == []


def test_every_call_of_its_life_was_listed_and_is_allowed_by_the_policies_that_sdctl_prints(
    deployed: World,
) -> None:
    purposes: tuple[Purpose, ...] = ("deploy", "destroy")
    for purpose in purposes:
        calls = aws_permissions.made(deployed, purpose)
        assert aws_permissions.unlisted(purpose, calls) == set()
        assert aws_permissions.denied(deployed, purpose, calls) == set()
    # A policy for one purpose is none for another.
    assert aws_permissions.denied(deployed, "submit", aws_permissions.made(deployed, "destroy"))
