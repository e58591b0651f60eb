"""The private names of the pinned emulator that we touch, seen in a process of their own."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import inspect, os, sys
from pathlib import Path
from sdctl.local.emulator import environment
from sdctl.local.state import EmulatorSettings, StateFolder
folder = StateFolder(Path(sys.argv[1]))
os.environ.update(environment(EmulatorSettings(4000, "eu-west-1", "123456789012", "s"), folder))
from sdctl.local import ministack_hooks as hooks
from ministack.core import lambda_runtime, persistence
from ministack.services import sqs
assert "await asyncio.sleep(" in inspect.getsource(sqs._act_receive_message)
parameters = inspect.signature(lambda_runtime.Worker._drain_stderr_bounded).parameters
assert list(parameters) == ["self", "first_line_wait", "idle_confirm", "hard_cap"], parameters
hooks.shorten_lambda_log_waits()
pulse = hooks.Pulse()
hooks.wake_long_polls(pulse)
assert sqs.asyncio.sleep == pulse.sleep and sqs.asyncio.gather
assert persistence.STATE_DIR == str(folder.emulator_state) and persistence.PERSIST_STATE
hooks.bound_log_streams()
from ministack.services import cloudwatch_logs
stream = {"events": [], "firstEventTimestamp": None, "lastEventTimestamp": None, "lastIngestionTime": None}
for number in range(3 * hooks.KEPT_LOG_EVENTS):
    event = {"timestamp": number, "message": str(number), "ingestionTime": number}
    cloudwatch_logs._append_log_events(stream, [event])
kept = [event["timestamp"] for event in stream["events"]]
assert hooks.KEPT_LOG_EVENTS <= len(kept) <= 2 * hooks.KEPT_LOG_EVENTS, len(kept)
assert kept[-1] == 3 * hooks.KEPT_LOG_EVENTS - 1 and kept == sorted(kept)
states = hooks.snapshot()
assert "sqs" in states, states
folder.emulator_state.mkdir(parents=True)
files = hooks.StateFiles(folder.emulator_state)
files.write(states)
assert persistence.load_state("sqs") is not None
files.write({"sqs": {"later": 1}}, is_last=True)
files.write({"sqs": {"too late": 1}})
assert persistence.load_state("sqs") == {"later": 1}
assert [path.name for path in folder.emulator_state.glob("*.partial")] == []
from ministack.app import SERVICE_HANDLERS
print(",".join(sorted(SERVICE_HANDLERS)))
"""


def test_the_emulator_is_the_version_that_its_private_names_were_read_of() -> None:
    assert importlib.metadata.version("ministack") == "1.5.33"


def test_the_private_names_are_what_we_take_them_for(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    services = done.stdout.strip().split(",")
    assert {"cloudformation", "s3", "sqs", "sns", "dynamodb", "lambda", "apigateway", "ssm"} <= set(services)
    assert len(services) == 13, services
