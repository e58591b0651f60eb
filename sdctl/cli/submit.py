"""`sdctl submit`: one task, from flags or a file, and where asked for its end and its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from sdctl import contract
from sdctl.cli import access, context, output
from sdctl.cli.lazy import Entry, lazy_group
from sdctl.cli.submit_options import (
    STDIN,
    Batch,
    Cfg,
    Checkpoint,
    Common,
    Count,
    Height,
    Negative,
    Sampler,
    Scheduler,
    Seed,
    Size,
    Steps,
    Via,
    Width,
    picture_fields,
    read_text,
    with_common,
)
from sdctl.errors import ApiError, UsageError
from sdctl.tasks import bodies
from sdctl.tasks.answers import Submitted
from sdctl.tasks.api import V1ALPHA2, TaskApi

_MODULE = "sdctl.cli.submit"
# How long a task that was published to the topic may be unknown: until an agent takes it, which
# can mean a new node and a new pod.
_UNSEEN_SECONDS = 1800.0

app = lazy_group(
    "Submit one task.",
    (
        Entry("t2i", _MODULE, "t2i", "Text to image: a picture from PROMPT."),
        Entry("i2i", _MODULE, "i2i", "Image to image: IMAGE, changed as PROMPT says."),
        Entry("upscale", _MODULE, "upscale", "A larger IMAGE."),
        Entry("pipeline", _MODULE, "pipeline", "A ComfyUI workflow in API format."),
        Entry("raw", _MODULE, "raw", "A whole request body of v1alpha2 or v1alpha1."),
    ),
)


@with_common
def t2i(
    common: Common,
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    *,
    negative_prompt: Negative = None,
    size: Size = None,
    width: Width = None,
    height: Height = None,
    steps: Steps = None,
    seed: Seed = None,
    cfg_scale: Cfg = None,
    sampler: Sampler = None,
    scheduler: Scheduler = None,
    batch_size: Batch = None,
    batches: Count = None,
    checkpoint: Checkpoint = None,
) -> None:
    """Draw a picture from PROMPT."""
    fields = picture_fields(
        size, width, height, prompt=prompt, negative_prompt=negative_prompt, steps=steps, seed=seed,
        cfg_scale=cfg_scale, sampler_name=sampler, scheduler=scheduler, batch_size=batch_size, n_iter=batches,
    )  # fmt: skip
    _submit(common, "text-to-image", lambda _: bodies.image_content(fields, checkpoint))


@with_common
def i2i(
    common: Common,
    image: Annotated[str, typer.Argument(help="A local file, or an http(s):// or s3:// URL.")],
    prompt: Annotated[str, typer.Argument(help="What to make of it.")],
    *,
    strength: Annotated[
        float | None,
        typer.Option("--denoising-strength", "--strength", min=0, max=1, help="0 keeps IMAGE.", metavar="X"),
    ] = None,
    mask: Annotated[
        str | None, typer.Option("--mask", help="White is repainted; as IMAGE.", metavar="IMAGE")
    ] = None,
    negative_prompt: Negative = None,
    size: Size = None,
    width: Width = None,
    height: Height = None,
    steps: Steps = None,
    seed: Seed = None,
    cfg_scale: Cfg = None,
    sampler: Sampler = None,
    scheduler: Scheduler = None,
    batch_size: Batch = None,
    batches: Count = None,
    checkpoint: Checkpoint = None,
) -> None:
    """Change IMAGE as PROMPT says."""
    fields = picture_fields(
        size, width, height, prompt=prompt, negative_prompt=negative_prompt, steps=steps, seed=seed,
        cfg_scale=cfg_scale, sampler_name=sampler, scheduler=scheduler, batch_size=batch_size, n_iter=batches,
        denoising_strength=strength,
    )  # fmt: skip

    def content(upload: Callable[[str], str]) -> dict[str, Any]:
        inputs = {"init_images": [upload(image)], "mask": upload(mask) if mask else None}
        return bodies.image_content({**fields, **inputs}, checkpoint)

    _submit(common, "image-to-image", content)


@with_common
def upscale(
    common: Common,
    image: Annotated[str, typer.Argument(help="A local file, or an http(s):// or s3:// URL.")],
    *,
    scale: Annotated[
        float | None, typer.Option("--scale", min=1, help="Factor; 4 by default.", metavar="X")
    ] = None,
    size: Annotated[str | None, typer.Option("--size", help="To this size instead.", metavar="WxH")] = None,
    upscaler: Annotated[
        str | None,
        typer.Option("--upscaler", help=f"{bodies.DEFAULT_UPSCALER} by default.", metavar="NAME"),
    ] = None,
) -> None:
    """Make IMAGE larger."""
    if scale is not None and size is not None:
        raise UsageError("--scale and --size were both given")
    pixels = bodies.parse_size(size) if size else None
    _submit(
        common,
        "extra-single-image",
        lambda upload: bodies.upscale_content(upload(image), upscaler=upscaler, scale=scale, size=pixels),
    )


@with_common
def pipeline(
    common: Common,
    file: Annotated[str, typer.Argument(help="The workflow, exported in API format; - is stdin.")],
    *,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image",
            help="Input of a node (id or title): a file or URL; may be repeated.",
            metavar="NODE=FILE",
        ),
    ] = None,
) -> None:
    """Run a ComfyUI workflow, saved in API format."""
    name = "the workflow on stdin" if file == STDIN else file
    document = bodies.workflow(bodies.parse_json_object(read_text(file), name), name)
    inputs: list[tuple[str, str]] = []
    for one in image or []:
        node, equals, source = one.partition("=")
        if not equals or not source:
            raise UsageError(f"--image {one!r} is not NODE=FILE")
        inputs.append((bodies.node_of(document, node), source))

    def content(upload: Callable[[str], str]) -> dict[str, Any]:
        for node, source in inputs:
            field = bodies.FILE_INPUTS.get(document[node]["class_type"], "image")
            document[node].setdefault("inputs", {})[field] = upload(source)
        return document

    _submit(common, "pipeline", content)


@with_common
def raw(common: Common, file: Annotated[str, typer.Argument(help="The body as JSON; - is stdin.")]) -> None:
    """Submit a whole request body of v1alpha2 or v1alpha1."""
    document = bodies.parse_json_object(read_text(file), "stdin" if file == STDIN else file)
    bodies.apply_settings(document, common.settings)
    body, version = bodies.raw_body(document, common.metadata)
    if common.via is Via.SNS:
        from sdctl.tasks.publish import publish

        deployment = context.require_deployment()
        _finish(common, publish(access.aws(deployment), deployment.outputs, body, version), None)
        return
    api = access.task_api()
    submitted = _send(api, body, version)
    if not submitted.runtime:
        # v1alpha1 answers without the runtime, which our own result has.
        from dataclasses import replace

        submitted = replace(submitted, runtime=api.get(submitted.id).runtime)
    _finish(common, submitted, api)


def _submit(
    common: Common, tasktype: str, content_of: Callable[[Callable[[str], str]], dict[str, Any]]
) -> None:
    """Send one task. `content_of` gets the function that turns an input into its address."""
    from dataclasses import replace

    api: TaskApi | None = None

    def client() -> TaskApi:
        nonlocal api
        api = api or access.task_api()
        return api

    def upload(source: str) -> str:
        from sdctl.tasks.files import input_url, is_url

        is_any = tasktype == "pipeline"
        return source if is_url(source) else input_url(client(), source, images_only=not is_any)

    metadata = replace(common.metadata, runtime=access.choose_runtime(tasktype, common.metadata.runtime))
    content = content_of(upload)
    bodies.apply_settings(content, common.settings)
    body = bodies.body(metadata, tasktype, content)
    if common.via is Via.SNS:
        from sdctl.tasks.publish import publish

        deployment = context.require_deployment()
        _finish(common, publish(access.aws(deployment), deployment.outputs, body), api)
    else:
        _finish(common, _send(client(), body), api)


def _send(api: TaskApi, body: Mapping[str, Any], version: str = V1ALPHA2) -> Submitted:
    """Submit; where the model asked for is unknown, the hint is how it gets known."""
    try:
        return api.submit(body, version)
    except ApiError as error:
        # Only a body that was understood is answered so.
        if version == V1ALPHA2 and "unknown checkpoint" in error.message:
            from sdctl.models.names import bring_command

            name = contract.requested_checkpoint(body["task"]["content"])
            error.hint = f"{bring_command(name)}; a runtime takes others than its own with dynamicModel: true"
        raise


def _finish(common: Common, submitted: Submitted, api: TaskApi | None) -> None:
    """Tell what was submitted, or wait for its end and tell that."""
    from sdctl.cli.deploy_model import warn_of_missing

    if submitted.replayed:
        output.note(f"{submitted.id} was submitted before: nothing new was started")
    warn_of_missing(submitted.runtime)
    if not common.wait:
        output.note(f"{submitted.status} on {submitted.runtime}; outputs go to {submitted.output_location}")
        output.note(f"Next: sdctl watch {submitted.id}")
        output.result(submitted.document(), submitted.id)
        return
    from sdctl.cli import following
    from sdctl.tasks.watch import require_completed

    api = api or access.task_api()
    (ended,) = following.wait(
        api,
        [submitted.id],
        timeout_seconds=common.timeout_seconds,
        folder=common.folder,
        unseen_seconds=_UNSEEN_SECONDS if common.via is Via.SNS else 0.0,
    )
    task, files = ended
    output.result(task.document(files), lambda: following.summary(task, files))
    following.show_pictures([ended], api)
    require_completed([task])
