"""What a Helm release is: data that is rendered in one place and installed in another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Chart:
    """Where a chart comes from.

    `reference` is `oci://…`, the path of a folder or archive, or a name in `repository` (an https
    address). `version` is exact; empty for a path alone.
    """

    reference: str
    version: str = ""
    repository: str = ""

    @property
    def registry(self) -> str:
        """The host of the registry that it comes from, with its port; empty where it comes from none."""
        scheme, found, rest = self.reference.partition("oci://")
        return rest.partition("/")[0] if found and not scheme else ""

    @property
    def is_local(self) -> bool:
        """Tell whether it is a folder or an archive on this machine."""
        return not self.repository and "://" not in self.reference


@dataclass(frozen=True, slots=True)
class Release:
    """One release: `values` is what Helm merges over the chart's own; `skip_crds` leaves `crds/` out."""

    name: str
    namespace: str
    chart: Chart
    values: Mapping[str, Any] = field(default_factory=dict)
    skip_crds: bool = False
