"""What each child process is started with."""

from __future__ import annotations

from pathlib import Path

from sdctl.local.children import (
    AGENT,
    ChildSpec,
    RuntimeSpec,
    base_environment,
    in_start_order,
    runtime_children,
)
from sdctl.local.state import EmulatorSettings, StateFolder, folder_of
from sdctl.local.supervisor import BACKOFF_SECONDS, backoff_seconds

FOLDER = StateFolder(Path("/state"))
SETTINGS = EmulatorSettings(4000, "us-east-1", "123456789012", "the-secret")
SPEC = RuntimeSpec(
    "web", "sdwebui", {"RUNTIME_NAME": "web", "INPUT_ALLOWLIST": "files.example"},
    checkpoints=("a.safetensors", "b c.safetensors"), seconds_per_image=1.5, model_bucket="models",
)  # fmt: skip


def test_a_runtime_is_sketch_and_an_agent_that_speaks_to_it() -> None:
    sketch, agent = runtime_children(SPEC, SETTINGS, FOLDER, 5000)
    assert sketch.command()[1:] == [
        "-P", "-m", "sdctl.local.child", "sdctl.local.sketch", "--type", "sdwebui", "--host", "127.0.0.1",
        "--port", "5000", "--checkpoint", "a.safetensors", "--checkpoint", "b c.safetensors",
        "--models-dir", "/state/objects/123456789012/models", "--seconds-per-image", "1.5",
    ]  # fmt: skip
    assert (sketch.port, sketch.ready_path) == (5000, "/sdapi/v1/options")
    assert agent.environment["API_BASE_URL"] == "http://127.0.0.1:5000"
    assert agent.environment["INPUT_ALLOWLIST"] == "files.example,127.0.0.1:4000"
    assert agent.environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4000"


def test_a_runtime_url_replaces_sketch() -> None:
    spec = RuntimeSpec("comfy", "comfyui", {}, runtime_url="http://gpu:8188")
    (agent,) = runtime_children(spec, SETTINGS, FOLDER, None)
    assert (agent.kind, agent.environment["API_BASE_URL"]) == (AGENT, "http://gpu:8188")


def test_no_secret_is_in_a_command_line_or_in_a_repr() -> None:
    for child in runtime_children(SPEC, SETTINGS, FOLDER, 5000):
        assert "the-secret" not in " ".join(child.command())
        assert "the-secret" not in repr(child)
    assert "the-secret" not in repr(SETTINGS)


def test_a_child_survives_the_way_through_the_desired_state_file() -> None:
    for child in runtime_children(SPEC, SETTINGS, FOLDER, 5000):
        assert ChildSpec.from_dict(child.as_dict()) == child


def test_children_start_the_emulator_first_and_agents_last() -> None:
    kinds = [ChildSpec(kind, kind, "m") for kind in ("agent", "emulator", "runtime")]
    assert [child.kind for child in in_start_order(kinds)] == ["emulator", "runtime", "agent"]


def test_children_get_little_of_the_callers_environment() -> None:
    env = {
        "PATH": "/bin",
        "HOME": "/h",
        "AWS_PROFILE": "x",
        "http_proxy": "y",
        "TMPDIR": "/elsewhere",
        "LANG": "",
    }
    assert base_environment(env, FOLDER) == {
        "PATH": "/bin", "HOME": "/h", "TMPDIR": "/state/tmp", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def test_the_first_restart_is_at_once_and_later_ones_wait_longer_up_to_a_limit() -> None:
    waits = [backoff_seconds(failures) for failures in range(1, 10)]
    assert waits[0] == 0
    assert waits == sorted(waits)
    assert waits[-1] == BACKOFF_SECONDS[-1]


def test_two_folders_and_two_stacks_have_state_folders_of_their_own() -> None:
    home = Path("/home")
    found = {folder_of(home, stack, Path(where)).root for stack in ("a", "b") for where in ("/x", "/y")}
    assert len(found) == 4
