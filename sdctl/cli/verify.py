"""`sdctl verify`: the guide's smoke test, through the API to the stored picture."""

from __future__ import annotations

import struct
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from sdctl import contract
from sdctl.cli import access, output
from sdctl.cli.flags import duration_seconds
from sdctl.errors import ApiError, SdctlError, TaskFailedError
from sdctl.tasks import bodies
from sdctl.tasks.answers import RemoteTask
from sdctl.tasks.api import TaskApi


class Result(StrEnum):
    """What a check comes to."""

    PASS = "pass"  # noqa: S105 - a word for a check, not a secret
    FAIL = "fail"
    SKIP = "skip"


_SIDE: Final = 512
_UPSCALE: Final = 2
_STEPS: Final = 16
_PROMPT: Final = "A dog"
_CHECKPOINT: Final = "v1-5-pruned-emaonly.safetensors"
_COLUMNS: Final = ("check", "runtime", "result", "seconds", "id", "detail")


class Kind(StrEnum):
    """The runtime types that there are checks for."""

    SDWEBUI = contract.SDWEBUI
    COMFYUI = contract.COMFYUI


@dataclass(frozen=True, slots=True)
class Check:
    """What came of one check: `result` is pass, fail or skip; `detail` says why."""

    check: str
    runtime: str
    result: Result
    id: str
    seconds: float
    detail: str


class _Run:
    """The checks of one runtime, each built upon the first one's picture."""

    def __init__(self, api: TaskApi, runtime: str, timeout_seconds: float, folder: Path) -> None:
        self._api = api
        self._runtime = runtime
        self._timeout_seconds = timeout_seconds
        self._folder = folder
        self.checks: list[Check] = []
        self.made: RemoteTask | None = None

    def check(self, name: str, tasktype: str, content: Callable[[], dict[str, Any]], side: int) -> None:
        """Submit one task and check what is stored: a picture of `side` × `side` pixels."""
        body = bodies.body(bodies.Metadata(runtime=self._runtime), tasktype, content())
        task_id = body["task"]["metadata"]["id"]
        output.note(f"{self._runtime}: {name} …")
        started = time.monotonic()
        try:
            self._api.submit(body)
            task, detail = self._result(task_id, side)
        except SdctlError as error:
            result, detail = Result.FAIL, error.message
        else:
            result, self.made = Result.PASS, self.made or task
        seconds = round(time.monotonic() - started, 1)
        self.checks.append(Check(name, self._runtime, result, task_id, seconds, detail))

    def skip(self, name: str) -> None:
        """Leave a check out, for want of the first one's picture."""
        self.checks.append(
            Check(name, self._runtime, Result.SKIP, "", 0.0, "there is no picture to start from")
        )

    def _result(self, task_id: str, side: int) -> tuple[RemoteTask, str]:
        from sdctl.tasks.files import download_outputs
        from sdctl.tasks.watch import follow, require_completed

        (task,) = follow(self._api, [task_id], timeout_seconds=self._timeout_seconds)
        require_completed([task])
        paths = download_outputs(task, self._folder, self._api.transport)
        if not paths:
            raise ApiError("completed without an output")
        data = Path(paths[0]).read_bytes()
        size = png_size(data)
        if size != (side, side):
            shown = f"{size[0]}x{size[1]}" if size else "not a PNG"
            raise ApiError(f"{task.image_url[0]} is {shown}, not a PNG of {side}x{side}")
        return task, f"{side}x{side}, {len(data)} bytes"


def png_size(data: bytes) -> tuple[int, int] | None:
    """Read width and height from a PNG's header; None for anything else."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR" or len(data) < 24:
        return None
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def text_to_image_workflow(checkpoint: str) -> dict[str, Any]:
    """Return ComfyUI's basic workflow in API format: text to one square picture."""
    nodes: dict[str, tuple[str, dict[str, Any]]] = {
        "3": (
            "KSampler",
            {
                "seed": 1, "steps": _STEPS, "cfg": 8, "denoise": 1,
                "sampler_name": "euler", "scheduler": "normal",
                "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
            },
        ),
        "4": ("CheckpointLoaderSimple", {"ckpt_name": checkpoint}),
        "5": ("EmptyLatentImage", {"width": _SIDE, "height": _SIDE, "batch_size": 1}),
        "6": ("CLIPTextEncode", {"text": _PROMPT, "clip": ["4", 1]}),
        "7": ("CLIPTextEncode", {"text": "blurry", "clip": ["4", 1]}),
        "8": ("VAEDecode", {"samples": ["3", 0], "vae": ["4", 2]}),
        "9": ("SaveImage", {"filename_prefix": "sdctl-verify", "images": ["8", 0]}),
    }  # fmt: skip
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


def _sdwebui(run: _Run) -> None:
    size = {"width": _SIDE, "height": _SIDE, "steps": _STEPS}
    run.check("t2i", "text-to-image", lambda: bodies.image_content({"prompt": _PROMPT, **size}, None), _SIDE)
    made = run.made
    if made is None:
        run.skip("i2i")
        run.skip("upscale")
        return
    image = made.image_url[0]
    fields = {"prompt": "A cat", "init_images": [image], "denoising_strength": 0.6, **size}
    run.check("i2i", "image-to-image", lambda: bodies.image_content(fields, None), _SIDE)
    upscale = bodies.upscale_content(image, upscaler=None, scale=_UPSCALE, size=None)
    run.check("upscale", "extra-single-image", lambda: upscale, _SIDE * _UPSCALE)


def verify(
    *,
    runtime: Annotated[
        str | None, typer.Option("--runtime", help="Only this one; by default all.", metavar="NAME")
    ] = None,
    kind: Annotated[
        Kind | None, typer.Option("--type", help="What --runtime is, where nothing here says so.")
    ] = None,
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", help="Model of the ComfyUI pipeline.", metavar="FILE")
    ] = _CHECKPOINT,
    timeout: Annotated[
        str, typer.Option("--timeout", help="For each task; a first one may start a node.", metavar="TIME")
    ] = "30m",
) -> None:
    """Run the smoke test: each kind of task, through the API, to the stored picture."""
    api = access.task_api()
    kinds = access.runtimes()
    if runtime is not None:
        kinds = {runtime: kind.value if kind else kinds.get(runtime, contract.SDWEBUI)}
    checks: list[Check] = []
    seconds = duration_seconds(timeout)
    with tempfile.TemporaryDirectory(prefix="sdctl-verify-") as folder:
        for name, known in kinds.items():
            run = _Run(api, name, seconds, Path(folder))
            if known == contract.SDWEBUI:
                _sdwebui(run)
            else:
                run.check("pipeline", "pipeline", lambda: text_to_image_workflow(checkpoint), _SIDE)
            checks += run.checks
    rows = [asdict(check) for check in checks]
    failed = [check for check in checks if check.result == Result.FAIL]
    output.result({"passed": not failed, "checks": rows}, lambda: output.table(rows, _COLUMNS))
    if failed:
        names = ", ".join(f"{check.check} on {check.runtime}" for check in failed)
        raise TaskFailedError(f"{len(failed)} of {len(checks)} checks failed: {names}", hint="sdctl logs")
