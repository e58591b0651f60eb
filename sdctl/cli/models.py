"""`sdctl models`: models into the bucket, and what it holds."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdctl.cli import output
from sdctl.errors import RemoteError, SdctlError, UsageError

if TYPE_CHECKING:
    from sdctl.cli.models_place import Place
    from sdctl.models.bringing import Brought

app = typer.Typer(help="The models in the bucket.", no_args_is_help=True, rich_markup_mode=None)

_Bucket = Annotated[
    str | None, typer.Option("--bucket", "-b", metavar="NAME", help="Another bucket than the deployment's.")
]
_Replace = Annotated[bool, typer.Option("--replace", help="Put it in place of another file of its name.")]


@app.callback()
def _group() -> None:
    pass


@app.command()
def upload(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="File, folder, https://…, hf:OWNER/REPO[/FILE][@REVISION], civitai:VERSION, models.yaml",
        ),
    ],
    *,
    to: Annotated[
        str | None, typer.Option("--to", metavar="FOLDER", help="Found out from the file, unless given.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="FILE", help="The file's name in the bucket.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", metavar="HEX", help="What the file must have.")
    ] = None,
    replace: _Replace = False,
    bucket: _Bucket = None,
) -> None:
    """Bring models into the bucket: checked, named after what they are, and never sent twice.

    Each file's head tells what it is and so its folder. An interrupted run goes on with the same command.
    """
    from sdctl.cli.models_run import bring, open_sources
    from sdctl.models.bringing import Wish
    from sdctl.models.manifest import is_manifest
    from sdctl.models.names import file_name, folder_name
    from sdctl.models.sources import checked_sha256, is_remote

    lists = [one for one in sources if not is_remote(one) and is_manifest(Path(one))]
    if lists:
        if len(sources) > 1 or to or name or sha256:
            raise UsageError("a list of models stands alone", hint=f"sdctl models sync {lists[0]}")
        sync(Path(lists[0]), replace=replace, bucket=bucket)
        return
    wish = Wish(
        folder_name(to) if to else "", file_name(name) if name else "",
        checked_sha256(sha256) if sha256 else "", replace,
    )  # fmt: skip
    place = _place(bucket)
    with open_sources() as resolver:
        origins = [one for source in sources for one in resolver.resolve(source, Path())]
        if len(origins) > 1 and (name or sha256):
            raise UsageError("--name and --sha256 are for one model alone")
        brought, errors = bring(place, [(one, wish) for one in origins])
    _finish(brought, errors, place)


@app.command()
def sync(
    manifest: Annotated[
        Path, typer.Argument(metavar="FILE", help="The list of models.", show_default=True)
    ] = Path("models.yaml"),
    *,
    update: Annotated[
        bool, typer.Option("--update", help="Look at the sources anew, and lock that.")
    ] = False,
    replace: _Replace = False,
    bucket: _Bucket = None,
) -> None:
    """Bring what models.yaml lists and the bucket lacks, tell what is there besides, and lock the hashes.

    The file has one key, models, a list of sources, or of maps with source and, optionally, to, name, sha256.
    """
    from sdctl.cli.models_place import existing
    from sdctl.cli.models_run import bring, open_sources
    from sdctl.models import syncing
    from sdctl.models.library import Library

    place = _place(bucket)
    with open_sources() as resolver, existing(place):
        result = syncing.sync(
            manifest, Library(place.objects).models(), resolver.resolve, partial(bring, place),
            is_updated=update, is_replaced=replace,
        )  # fmt: skip
    for key in result.extra:
        output.note(f"not in {manifest}: {key}")
    for error in result.errors:
        if "SHA-256" in error.message and not error.hint:
            error.hint = f"where it is meant to be another: sdctl models sync {manifest} --update --replace"
    _finish(result.brought, result.errors, place, extra=result.extra, locked=result.locked)


def _place(bucket: str | None) -> Place:
    from sdctl.cli.models_place import find_place

    return find_place(bucket)


def _finish(
    brought: list[Brought],
    errors: list[SdctlError],
    place: Place,
    *,
    extra: list[str] | None = None,
    locked: list[str] | None = None,
) -> None:
    """Print the end of a run, and leave with the first error's code where one failed."""
    from sdctl.cli.models_place import human_bytes
    from sdctl.cli.models_run import brought_row

    rows = [brought_row(one) for one in brought]
    document: dict[str, Any] = {
        "event": "end", "bucket": place.bucket, "models": rows,
        "failed": [{"code": one.code, "message": one.message, "hint": one.hint} for one in errors],
    }  # fmt: skip
    if extra is not None:
        document |= {"extra": extra, "locked": locked or []}

    def text() -> str:
        shown = [row | {"size": human_bytes(row["size_bytes"])} for row in rows]
        if rows:
            return output.table(shown, ["action", "key", "type", "base", "size"])
        return "" if errors else "Nothing was to be done."

    output.stream(document, text)
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    raise FailedModelsError(
        f"{len(errors)} of {len(errors) + len(brought)} models failed:\n"
        + "\n".join(f"  {one.message}" for one in errors),
        hint=errors[0].hint,
    )


class FailedModelsError(RemoteError):
    """Some of the models could not be brought."""

    code = "models_failed"


@app.command("list")
def list_models(bucket: _Bucket = None) -> None:
    """List the models: kind, base model, size, hash, date, and the runtimes that use them."""
    from sdctl.cli.models_place import checkpoints, existing, human_bytes
    from sdctl.models.library import Library, missing_checkpoints, users_of
    from sdctl.models.names import bring_command

    place = _place(bucket)
    with existing(place):
        entries = Library(place.objects).models()
    used = checkpoints(place)
    rows = [asdict(one) | {"used_by": users_of(one.key, used)} for one in entries]
    missing = missing_checkpoints(entries, used)

    def text() -> str:
        if not rows:
            return f"The bucket {place.bucket} holds no model."
        shown = [
            row
            | {
                "size": human_bytes(row["size_bytes"]),
                "sha256": row["sha256"][:12],
                "date": row["uploaded_at"][:10],
                "used_by": ", ".join(row["used_by"]),
            }
            for row in rows
        ]
        return output.table(shown, ["key", "type", "base", "size", "sha256", "date", "used_by"])

    output.result({"bucket": place.bucket, "models": rows, "missing": missing}, text)
    if place.deployment is not None and place.deployment.target == "local":
        return  # the built-in runtime reads no model
    for name, runtimes in missing.items():
        output.note(f"{', '.join(runtimes)} needs {name}, which is not there: {bring_command(name)}")


@app.command()
def verify(
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL", help="All, unless given.")] = None,
    *,
    bucket: _Bucket = None,
) -> None:
    """Compare each model's checksum in the bucket with the one it was sent with; nothing is downloaded."""
    from sdctl.cli.models_place import existing
    from sdctl.models.library import Library

    place = _place(bucket)
    with existing(place):
        found = Library(place.objects).verify(models or [])
    rows = [asdict(one) for one in found]
    output.result(
        rows, lambda: output.table(rows, ["verdict", "key", "how"]) if rows else "There is no model."
    )
    wrong = [one.key for one in found if one.verdict in ("changed", "missing")]
    if wrong:
        raise ChangedModelsError(
            f"{len(wrong)} of {len(found)} models are not as they were sent: {', '.join(wrong)}",
            hint="bring them again: sdctl models upload SOURCE --replace",
        )


class ChangedModelsError(RemoteError):
    """Some models are not what was sent, or are gone."""

    code = "models_changed"


@app.command()
def remove(
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="As `models list` names them.")],
    *,
    bucket: _Bucket = None,
) -> None:
    """Delete models from the bucket; what a deployed runtime names stays."""
    from sdctl.cli.models_place import checkpoints, existing
    from sdctl.models.library import Library

    place = _place(bucket)
    library, used = Library(place.objects), checkpoints(place, is_sure=True)
    with existing(place):
        keys = library.removable(models, used)
    if not output.confirm(f"Delete {', '.join(keys)} from the bucket {place.bucket}?"):
        raise typer.Exit(1)
    library.remove(keys)
    output.result({"bucket": place.bucket, "removed": keys}, "\n".join(f"removed {key}" for key in keys))
