"""`deploy`, `status`, `outputs`, `apikey`, `logs` and `destroy` as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.farm import BIN, Farm, command_environment
from support.local_target import eventually, is_listening, processes_of


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    root = tmp_path_factory.mktemp("commands")
    (root / "work").mkdir()
    farm = Farm(root / "work", root / "home")
    farm.deploy()
    yield farm
    if (farm.home / "local").exists():
        farm.destroy()


def test_outputs_point_to_this_machine_and_the_key_command_prints_the_key(farm: Farm) -> None:
    outputs = json.loads(farm.run("outputs", "-o", "json").stdout)
    assert outputs == farm.outputs
    assert outputs["FrontApiEndpoint"].startswith("http://127.0.0.1:")
    assert outputs["FrontApiEndpoint"].endswith("/")
    printed = subprocess.run(
        outputs["GetAPIKeyCommand"], shell=True, cwd="/", env=command_environment(farm.home),
        capture_output=True, text=True, check=True, timeout=30,
    ).stdout  # fmt: skip
    assert printed == farm.run("apikey").stdout
    assert farm.call("GET", "v1alpha2/tasks", key=printed.strip()).status == 200


def test_one_output_is_printed_alone_for_scripts(farm: Farm) -> None:
    endpoint = farm.outputs["FrontApiEndpoint"]
    assert farm.run("outputs", "FrontApiEndpoint").stdout == f"{endpoint}\n"
    as_json = farm.run("outputs", "FrontApiEndpoint", "-o", "json").stdout
    assert json.loads(as_json) == {"FrontApiEndpoint": endpoint}
    unknown = farm.run("outputs", "frontapiendpoint", check=False)
    assert (unknown.returncode, "FrontApiEndpoint" in unknown.stderr) == (4, True)


def test_a_second_deploy_changes_nothing_and_its_plan_says_so(farm: Farm) -> None:
    before = farm.status()
    plan = json.loads(farm.run("deploy", "--plan", "--target", "local", "-o", "json").stdout)
    assert {step["action"] for step in plan["steps"]} == {"none"}
    assert farm.deploy()["outputs"] == before_outputs(farm)
    assert farm.status()["children"] == before["children"]
    assert list(farm.folder.iterdir()) == []  # no configuration was written


def before_outputs(farm: Farm) -> dict[str, str]:
    outputs: dict[str, str] = json.loads(farm.run("outputs", "-o", "json").stdout)
    return outputs


def test_status_tells_children_and_queues(farm: Farm) -> None:
    status = farm.status()
    assert (status["healthy"], status["stack"]) == (True, "CREATE_COMPLETE")
    assert [child["kind"] for child in status["children"]] == ["emulator", "runtime", "agent"]
    assert status["queues"] == [
        {"runtime": "sdruntime", "type": "sdwebui", "waiting": 0, "running": 0, "dead_letters": 0}
    ]
    text = farm.run("status").stdout
    assert "agent-sdruntime" in text
    assert "DEAD LETTERS" in text


def test_secrets_are_in_files_of_their_owner_only(farm: Farm) -> None:
    secret = json.loads(next((farm.home / "local").glob("*/settings.json")).read_text())["secret_key"]
    for path in farm.home.rglob("*"):
        if path.is_file() and any(word in path.read_bytes() for word in (secret.encode(), farm.key.encode())):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
            assert path.suffix != ".log", path
    assert stat.S_IMODE((farm.home / "local").stat().st_mode) & 0o077 == 0


def test_logs_come_from_every_part(farm: Farm) -> None:
    farm.call("GET", "v1alpha2/tasks")
    assert "runtime_ready" in farm.run("logs").stdout
    assert "listening" in farm.run("logs", "runtime", "--lines", "5").stdout
    assert "started emulator" in farm.run("local", "logs", "supervisor").stdout
    eventually(lambda: "GET /v1alpha2/tasks" in farm.run("logs", "api").stdout, "the API's log")
    line = json.loads(farm.run("logs", "agent", "--lines", "1", "-o", "json").stdout)
    assert line["source"] == "agent-sdruntime"
    wrong = farm.run("logs", "nothing", check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")


def test_a_dead_runtime_is_restarted_and_status_tells(farm: Farm) -> None:
    runtime = next(child for child in farm.status()["children"] if child["kind"] == "runtime")
    os.kill(runtime["pid"], signal.SIGKILL)

    def restarted() -> bool:
        child = next(child for child in farm.status()["children"] if child["kind"] == "runtime")
        return child["restarts"] == 1 and child["state"] == "ready" and child["last_exit"] == -signal.SIGKILL

    assert eventually(restarted, "the runtime's restart")


def test_a_deploy_onto_aws_without_credentials_makes_nothing_and_says_why(farm: Farm) -> None:
    done = farm.run("deploy", "--target", "aws", "-R", "us-east-1", "-o", "json", check=False)
    assert (done.returncode, done.stdout) == (5, "")
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error["code"] == "unfit"
    assert "nothing was changed" in error["message"]
    assert "credentials" in error["message"]


def test_a_dry_run_writes_the_configuration_and_starts_nothing(farm: Farm, tmp_path: Path) -> None:
    fresh = Farm(tmp_path, tmp_path / "home")
    done = fresh.run("deploy", "-d", "--target", "local", "-t", "comfyui", "-r", "comfy", "-o", "json")
    assert {step["action"] for step in json.loads(done.stdout)["steps"]} == {"create"}
    assert "name: comfy" in (tmp_path / "sdctl.yaml").read_text()
    assert not (fresh.home / "local").exists()


def test_an_interrupted_first_deploy_can_be_destroyed(tmp_path: Path) -> None:
    fresh = Farm(tmp_path, tmp_path / "home")
    command = [str(BIN / "sdctl"), "deploy", "--target", "local"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=command_environment(fresh.home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as deploy:
        eventually(lambda: list((fresh.home / "local").glob("*/status.json")), "the emulator's start")
        deploy.send_signal(signal.SIGINT)
        deploy.communicate(timeout=30)
    if deploy.returncode == 0:
        pytest.skip("the deploy was over before the interrupt")
    assert deploy.returncode == 130
    fresh.run("destroy", "--yes")
    assert not processes_of(fresh.home)
    assert not (fresh.home / "local").exists()


def test_destroy_asks_and_then_leaves_nothing(farm: Farm) -> None:
    ports = [child["port"] for child in farm.status()["children"] if child["port"]]
    assert farm.run("destroy", check=False).returncode == 2
    assert farm.status()["healthy"]

    done = json.loads(farm.run("destroy", "--yes", "-o", "json").stdout)

    assert done == {"stack_name": "sdoneks", "target": "local", "left": []}
    assert not [port for port in ports if is_listening(port)]
    assert not processes_of(farm.home)
    assert not [path for path in farm.home.rglob("*") if path.is_file()]
    assert farm.run("destroy", "--yes", check=False).returncode == 4
