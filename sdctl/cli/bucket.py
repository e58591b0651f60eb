"""`sdctl bucket create` and `bucket list`: the bucket that holds the models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sdctl.cli import output
from sdctl.errors import ConflictError

if TYPE_CHECKING:
    from sdctl.clients.aws import Aws
    from sdctl.clients.buckets import BucketView

# Tells a model bucket of any name from a deployment's other buckets.
_PURPOSE_TAG: Final = ("sdctl:purpose", "models")

app = typer.Typer(help="The bucket that holds the models.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    pass


@app.command()
def create(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The one that deploy would pick, unless given.")
    ] = None,
) -> None:
    """Create the model bucket, or bring an own one to the same safety; a second time changes nothing.

    It is private, encrypted, takes TLS alone, and drops unfinished uploads after seven days.
    """
    from sdctl.cli.models_place import bucket_of, find_place
    from sdctl.clients.buckets import Buckets

    name = bucket_of(name) if name else None
    place = find_place(name)
    config = place.config
    tags = {"sdctl:stack": place.stack_name, **dict([_PURPOSE_TAG]), **config.tags}
    try:
        is_new, added = Buckets(place.aws).ensure(place.bucket, tags)
    except ConflictError as error:
        if not name:
            error.hint = "name one yourself: sdctl bucket create NAME, and modelBucketArn in sdctl.yaml"
        raise
    document = {
        "name": place.bucket, "region": place.aws.region, "created": is_new, "changes": added,
        "arn": f"arn:{place.aws.partition}:s3:::{place.bucket}",
    }  # fmt: skip
    what = "created" if is_new else "there already"
    changes = f"; now {', '.join(added)}" if added and not is_new else ""
    output.result(document, f"{place.bucket}  {what} in {place.aws.region}{changes}")
    if name and config.model_bucket != name:
        output.note(f"Next: modelBucketArn: {document['arn']} in sdctl.yaml, or sdctl deploy -b {name}")
    else:
        output.note("Next: sdctl models upload SOURCE")


@app.command("list")
def list_buckets() -> None:
    """List the model buckets of the region, with their size and the deployments that use them."""
    from sdctl.cli.models_place import find_place, human_bytes

    place = find_place()
    aws = place.aws
    rows = _rows(aws, place.bucket)

    def text() -> str:
        if not rows:
            return f"There is no model bucket in {aws.region}."
        shown = [
            row | {"size": human_bytes(row["size_bytes"]), "used_by": ", ".join(row["used_by"])}
            for row in rows
        ]
        return output.table(shown, ["name", "objects", "size", "used_by", "created_at"])

    output.result({"buckets": rows}, text)


def _rows(aws: Aws, meant: str) -> list[dict[str, Any]]:
    from sdctl.cli.models_place import users_of_buckets
    from sdctl.clients.buckets import Buckets

    buckets = Buckets(aws)
    listed, used = buckets.all(), users_of_buckets(aws)
    rows = []
    for one in listed:
        if not (one.name == meant or one.name in used or _is_made_by_us(one)):
            continue
        count, total = buckets.size(one.name)
        rows.append({
            "name": one.name, "region": one.region, "objects": count, "size_bytes": total,
            "used_by": sorted(used.get(one.name, ())), "created_at": one.created_at,
        })  # fmt: skip
    return rows


def _is_made_by_us(bucket: BucketView) -> bool:
    """Tell a bucket of `bucket create`, or one that a deploy made."""
    is_picked = "sdctl:stack" in bucket.tags and "-model-bucket-" in bucket.name
    return is_picked or _PURPOSE_TAG in bucket.tags.items()
