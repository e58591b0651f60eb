"""EKS: the calendar of Kubernetes versions, and the clusters that exist."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import ConflictError, NotFoundError
from sdctl.versions import KubernetesRelease


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster as EKS has it."""

    name: str
    version: str
    status: str
    tags: Mapping[str, str] = field(default_factory=dict)
    is_protected: bool = False


class Eks:
    """The reads that a look before a deploy makes, typed."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; the client is made on first use."""
        self._aws = aws

    @property
    def _client(self) -> Any:
        return self._aws.client("eks")

    def calendar(self) -> tuple[KubernetesRelease, ...]:
        """Return the Kubernetes versions that the region offers, with the ends of their support."""
        with aws_errors("read the Kubernetes versions of EKS"):
            pages = self._client.get_paginator("describe_cluster_versions").paginate(includeAll=True)
            found = [one for page in pages for one in page["clusterVersions"]]
        return tuple(
            KubernetesRelease(
                one["clusterVersion"],
                _day(one["releaseDate"]),
                _day(one["endOfStandardSupportDate"]),
                _day(one["endOfExtendedSupportDate"]),
            )
            for one in found
            # A version that is announced but has no dates yet cannot be judged.
            if {"releaseDate", "endOfStandardSupportDate", "endOfExtendedSupportDate"} <= one.keys()
        )

    def cluster(self, name: str) -> Cluster | None:
        """Return a cluster, or None where there is none of that name."""
        try:
            with aws_errors(f"read the cluster {name}"):
                one = self._client.describe_cluster(name=name)["cluster"]
        except NotFoundError:
            return None
        return Cluster(
            one["name"], one.get("version", ""), one.get("status", ""), one.get("tags", {}),
            is_protected=bool(one.get("deletionProtection")),
        )  # fmt: skip

    def unprotect(self, name: str) -> None:
        """Let a cluster be deleted that was protected from it; EKS takes a moment to do so."""
        with aws_errors(f"switch the protection of the cluster {name} off"):
            self._client.update_cluster_config(name=name, deletionProtection=False)

    def node_groups(self, cluster: str) -> tuple[str, ...]:
        """Return the names of a cluster's node groups; none where there is no cluster."""
        try:
            with aws_errors(f"list the node groups of {cluster}"):
                pages = self._client.get_paginator("list_nodegroups").paginate(clusterName=cluster)
                return tuple(name for page in pages for name in page["nodegroups"])
        except NotFoundError:
            return ()

    def delete_node_group(self, cluster: str, name: str) -> None:
        """Begin the end of a node group; one that is gone or going is left alone."""
        with suppress(NotFoundError, ConflictError), aws_errors(f"delete the node group {name}"):
            self._client.delete_nodegroup(clusterName=cluster, nodegroupName=name)


def _day(moment: Any) -> date:
    """Return the day of what botocore parsed as a datetime."""
    return date(moment.year, moment.month, moment.day)
