"""`sdctl kubeconfig`: access to the cluster for kubectl and its like."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sdctl.cli import context, output
from sdctl.cli.cluster import cluster_session


def kubeconfig(
    *,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="Where to add it; - prints it. Default: KUBECONFIG, else ~/.kube/config.",
        ),
    ] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", metavar="NAME", help="Where commands go that name none.")
    ] = "",
) -> None:
    """Add the cluster to a kubeconfig and make it the current one.

    Whatever else the file holds stays. Tokens come from `sdctl token`: the AWS command line is not needed.
    """
    from sdctl.clients import kubeconfig as files
    from sdctl.clients.cluster_access import find_cluster

    aws, stack_name = cluster_session()
    document = files.cluster_config(find_cluster(aws, stack_name), namespace=namespace)
    if file is not None and str(file) == "-":
        output.result(document, lambda: files.dump(document))
        return
    path = file.expanduser() if file else files.default_path(context.environment())
    files.add_to_file(path, document)
    name = document["current-context"]
    output.result({"path": str(path), "context": name}, str(path))
    is_default = file is None
    output.note(f"Next: kubectl {'' if is_default else f'--kubeconfig {shlex.quote(str(path))} '}get nodes")
