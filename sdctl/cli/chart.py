"""`sdctl chart`: the Helm chart as an archive, in a registry, or behind a web server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sdctl.cli import access, context, output
from sdctl.errors import NotFoundError, ToolError, UsageError

if TYPE_CHECKING:
    from sdctl.clients.helm import Helm

app = typer.Typer(help="Package, push and index the Helm chart.", no_args_is_help=True, rich_markup_mode=None)

_OCI = "oci://"
_Chart = Annotated[
    Path | None, typer.Option("--chart", metavar="FOLDER", help="The one that came with sdctl, unless given.")
]


@app.callback()
def _group() -> None:
    pass


@app.command()
def package(
    *,
    chart: _Chart = None,
    destination: Annotated[
        Path, typer.Option("--destination", metavar="FOLDER", help="Where the archive goes.")
    ] = Path(),
) -> None:
    """Pack the chart into an archive, the same bytes each time."""
    destination.mkdir(parents=True, exist_ok=True)
    archive = _packed(chart, destination)
    output.result({"archive": str(archive)}, str(archive))


@app.command()
def push(
    to: Annotated[str, typer.Argument(metavar="oci://REGISTRY/PATH", help="The chart's name is added.")],
    *,
    archive: Annotated[
        Path | None, typer.Option("--archive", metavar="FILE", help="A packed chart, instead of a folder.")
    ] = None,
    chart: _Chart = None,
) -> None:
    """Push the chart into a registry, of which ECR is signed in to by itself; twice changes nothing."""
    import tempfile

    from sdctl.clients.ecr import Ecr
    from sdctl.clients.oci import Reference
    from sdctl.clients.registries import ecr_login, is_ecr
    from sdctl.images.charts import read_archive
    from sdctl.images.mirror import Hosts

    place = to.removeprefix(_OCI).rstrip("/")
    if not to.startswith(_OCI) or not place:
        raise UsageError(f"{to} is not {_OCI}REGISTRY/PATH")
    if archive and chart:
        raise UsageError("--archive and --chart exclude each other")
    if archive is None:
        with tempfile.TemporaryDirectory(prefix="sdctl-chart-") as folder:
            packed = read_archive(_packed(chart, Path(folder)))
    else:
        packed = read_archive(archive)
    target = Reference.parse(f"{_OCI}{place}/{packed.about['name']}:{packed.tag}")
    if is_ecr(target.host):
        Ecr(access.session(), target.host).ensure(target.repository)
    with Hosts(
        lambda host: ecr_login(access.session(), host) if is_ecr(host) else None, context.environment()
    ) as hosts:
        repository = hosts.repository(target.host, target.repository)
        is_new = packed.push(repository)
        digest = repository.digest(packed.tag)
    action = "pushed" if is_new else "present"
    reference = f"{_OCI}{target.host}/{target.repository}"
    document = {
        "chart": reference, "version": packed.about["version"], "digest": digest, "action": action,
    }  # fmt: skip
    output.result(document, f"{action} {reference} {packed.about['version']}\n{digest}")
    output.note(f"chartRepository: {reference} and chartVersion in sdctl.yaml use it")


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Holds the archives.")],
    *,
    url: Annotated[
        str, typer.Option("--url", help="Where the archives will be, if not beside the index.")
    ] = "",
) -> None:
    """Write index.yaml, which makes a folder of archives a chart repository of any web server."""
    if not folder.is_dir():
        raise NotFoundError(f"there is no folder {folder}", hint="sdctl chart package --destination FOLDER")
    if not any(folder.glob("*.tgz")):
        raise NotFoundError(
            f"{folder} holds no packed chart", hint=f"sdctl chart package --destination {folder}"
        )
    with _helm() as helm:
        path = helm.index(folder, url)
    output.result({"index": str(path)}, str(path))


def _packed(chart: Path | None, destination: Path) -> Path:
    from sdctl.images.charts import reproducible

    with _helm() as helm:
        archive = helm.package(_folder(chart), destination)
    archive.write_bytes(reproducible(archive.read_bytes()))
    return archive


def _folder(chart: Path | None) -> Path:
    from sdctl.assets import asset_dir
    from sdctl.render.runtime_values import CHART_NAME

    folder = chart or asset_dir("charts") / CHART_NAME
    if not (folder / "Chart.yaml").is_file():
        raise NotFoundError(f"{folder} is no chart: it has no Chart.yaml")
    return folder


@contextmanager
def _helm() -> Iterator[Helm]:
    from sdctl.clients.helm import Helm
    from sdctl.clients.helm_binary import find_helm
    from sdctl.deployments import home

    env = context.environment()
    program = find_helm(home(env), env)
    if program is None:
        raise ToolError(
            "helm is needed to pack charts, and there is none", hint="sdctl doctor --fix installs it"
        )
    with Helm(program, environment=env) as helm:
        yield helm
