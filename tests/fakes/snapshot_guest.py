"""moto with instances that take commands: each script runs in a real shell, on a make-believe Bottlerocket.

`apiclient` there is a small program that keeps a list of images as `ctr` and `host-ctr` would.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import Loader
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.responses import ActionResult
from moto.ec2.responses import EC2Response
from moto.iam.models import AWSManagedPolicy, iam_backends
from moto.ssm.exceptions import SSMException
from moto.ssm.responses import SimpleSystemManagerResponse

from fakes.oci_registry import CONFIG, INDEX, LAYER, MANIFEST, OciRegistry
from sdctl.iam.targets import BUILDER_POLICIES
from sdctl.versions import BOTTLEROCKET_VERSION

# One of those that moto has; listing them takes a second.
_IMAGE_ID = "ami-03cf127a"
_PARAMETERS = {
    f"/aws/service/bottlerocket/aws-k8s-1.36/{arch}/{BOTTLEROCKET_VERSION}/image_id": _IMAGE_ID
    for arch in ("x86_64", "arm64")
}
# Of another release alone.
_PARAMETERS["/aws/service/bottlerocket/aws-k8s-1.35/x86_64/latest/image_id"] = _IMAGE_ID

# botocore's descriptions of services, read once for all sessions: EC2's alone takes a quarter of a second.
_MODELS: dict[Any, Any] = {}

_APICLIENT = r"""#!/bin/sh
echo "$*" >> "$STATE/log"
[ "$1 $2" = "exec admin" ] || exit 64
[ -f "$STATE/admin-is-late" ] && { rm "$STATE/admin-is-late"; echo "no admin container" >&2; exit 1; }
[ "$3" = sheltie ] || exit 65
shift 3
case "$1" in
true|sync) ;;
systemctl) echo "$2 $3" >> "$STATE/units" ;;
df) echo "Use%"; echo " $(cat "$STATE/percent")%" ;;
host-ctr)
  [ -f "$STATE/pull-fails" ] && { cat "$STATE/pull-fails" >&2; exit 1; }
  for word in "$@"; do
    case "$word" in --source=*) echo "${word#--source=}" >> "$STATE/images" ;; esac
  done ;;
ctr)
  [ "$2 $3" = "--address=/run/containerd/containerd.sock --namespace=k8s.io" ] || exit 66
  shift 3
  case "$1 $2" in
  "images ls") cat "$STATE/images" ;;
  "images rm") shift 2; for name in "$@"; do
      grep -vxF -- "$name" "$STATE/images" > "$STATE/rest" || true; mv "$STATE/rest" "$STATE/images"; done ;;
  "images tag") grep -qxF -- "$4" "$STATE/images" || exit 67; echo "$5" >> "$STATE/images" ;;
  "images label") grep -qxF -- "$3" "$STATE/images" || exit 68; shift 2; echo "$*" >> "$STATE/labels" ;;
  *) exit 69 ;;
  esac ;;
*) exit 70 ;;
esac
"""


@dataclass
class Guests:
    """The instances' insides, and what goes wrong with the next commands.

    `answers` are invocations as SSM would answer, each once, instead of running the script; None: SSM does
    not know the command yet.
    """

    folder: Path
    percent: int = 55
    pull_fails: str = ""
    is_admin_late: bool = False
    offline: int = 0
    answers: list[dict[str, Any] | None] = field(default_factory=list)
    sent: list[list[str]] = field(default_factory=list)
    fast_restore: set[tuple[str, str]] = field(default_factory=set)  # snapshots and zones
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    when_sent: Callable[[list[str]], None] = lambda lines: None

    def state(self, instance_id: str) -> Path:
        """Return the folder of an instance, made as it boots."""
        path = self.folder / instance_id
        if not path.exists():
            path.mkdir(parents=True)
            (path / "images").write_text("localhost/kubernetes/pause:0.1.0\n")
            (path / "percent").write_text(str(self.percent))
            if self.pull_fails:
                (path / "pull-fails").write_text(self.pull_fails)
            if self.is_admin_late:
                (path / "admin-is-late").touch()
            client = path / "bin" / "apiclient"
            client.parent.mkdir()
            client.write_text(_APICLIENT)
            client.chmod(0o755)
        return path

    def run(self, instance_id: str, lines: list[str]) -> dict[str, Any]:
        """Run a script on an instance, and describe its end as SSM does."""
        self.sent.append(lines)
        self.when_sent(lines)
        state = self.state(instance_id)
        env = {"PATH": f"{state / 'bin'}:{os.environ['PATH']}", "STATE": str(state)}
        ran = subprocess.run(
            ["sh", "-c", "\n".join(lines)], env=env, capture_output=True, text=True, timeout=30, check=False
        )
        status = "Failed" if ran.returncode else "Success"
        return {
            "Status": status, "StatusDetails": status, "ResponseCode": ran.returncode,
            "StandardOutputContent": ran.stdout, "StandardErrorContent": ran.stderr,
        }  # fmt: skip


def _add_managed_policies() -> None:
    """Have the policies of AWS that a builder gets: moto knows none unless it loads all, which is slow."""
    backend = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
    now = "2024-01-01T00:00:00+00:00"
    for name in BUILDER_POLICIES:
        data = {"DefaultVersionId": "v1", "Path": "/", "Document": {}, "CreateDate": now, "UpdateDate": now}
        made = AWSManagedPolicy.from_data(name, DEFAULT_ACCOUNT_ID, "us-east-1", data)
        backend.managed_policies[made.arn] = made


@contextmanager
def account_with_guests(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guests]:
    """Mock AWS, with what moto lacks of Systems Manager and of snapshots."""
    guests = Guests(folder)

    def information(self: Any) -> ActionResult:
        if guests.offline:
            guests.offline -= 1
            return ActionResult({"InstanceInformationList": []})
        [wanted] = self._get_param("Filters")
        listed = [{"InstanceId": one, "PingStatus": "Online"} for one in wanted["Values"]]
        return ActionResult({"InstanceInformationList": listed})

    def invocation(self: Any) -> ActionResult:
        command_id, instance_id = self._get_param("CommandId"), self._get_param("InstanceId")
        if guests.answers:
            answer = guests.answers.pop(0)
            if answer is None:
                raise SSMException("InvocationDoesNotExist", "")
            return ActionResult({"CommandId": command_id, "InstanceId": instance_id, **answer})
        if command_id not in guests.results:
            command = self.ssm_backend.get_command_by_id(command_id)
            guests.results[command_id] = guests.run(instance_id, command.parameters["commands"])
        return ActionResult(
            {"CommandId": command_id, "InstanceId": instance_id, **guests.results[command_id]}
        )

    real_parameter = SimpleSystemManagerResponse.get_parameter

    def parameter(self: Any) -> Any:
        name = self._get_param("Name")
        if name in _PARAMETERS:
            return ActionResult({"Parameter": {"Name": name, "Value": _PARAMETERS[name]}})
        return real_parameter(self)

    def asked(self: Any) -> set[tuple[str, str]]:
        zones, names = self._get_param("AvailabilityZones", []), self._get_param("SourceSnapshotIds", [])
        return {(name, zone) for name in names for zone in zones}

    def enable(self: Any) -> ActionResult:
        guests.fast_restore |= asked(self)
        return ActionResult({"Successful": [], "Unsuccessful": []})

    def disable(self: Any) -> ActionResult:
        guests.fast_restore -= asked(self)
        return ActionResult({"Successful": [], "Unsuccessful": []})

    def fast_restores(self: Any) -> ActionResult:
        [names] = [one["Values"] for one in self._get_param("Filters") if one["Name"] == "snapshot-id"]
        found = [
            {"SnapshotId": name, "AvailabilityZone": zone, "State": "optimizing"}
            for name, zone in sorted(guests.fast_restore)
            if name in names
        ]
        return ActionResult({"FastSnapshotRestores": found})

    def init(self: Loader, *arguments: Any, **named: Any) -> None:
        real_init(self, *arguments, **named)
        self._cache = _MODELS

    real_init = Loader.__init__
    monkeypatch.setattr(Loader, "__init__", init)
    with mock_aws():
        patched: tuple[tuple[Any, str, Any], ...] = (
            (SimpleSystemManagerResponse, "describe_instance_information", information),
            (SimpleSystemManagerResponse, "get_command_invocation", invocation),
            (SimpleSystemManagerResponse, "get_parameter", parameter),
            (EC2Response, "enable_fast_snapshot_restores", enable),
            (EC2Response, "disable_fast_snapshot_restores", disable),
            (EC2Response, "describe_fast_snapshot_restores", fast_restores),
        )
        for owner, name, function in patched:
            monkeypatch.setattr(owner, name, function, raising=False)
        _add_managed_policies()
        yield guests


def put(
    registry: OciRegistry, repository: str, tag: str, *platforms: str, layer: bytes = b"layer", gib: float = 0
) -> str:
    """Store an image for some platforms, and something that is no image, as attestations are.

    `gib` is how large its layer is said to be, where it is not as large as it is.
    """
    children = []
    for name in (*platforms, "unknown"):
        content = json.dumps({"os": "linux", "architecture": name}).encode()
        document = {
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, **registry.put_blob(repository, content)},
            "layers": [
                {
                    "mediaType": LAYER, **registry.put_blob(repository, layer + name.encode()),
                    **({"size": int(gib * 1024**3)} if gib else {}),
                }
            ],
        }  # fmt: skip
        platform = {"os": "linux" if name != "unknown" else "unknown", "architecture": name}
        children.append(
            {**registry.put_manifest(repository, document, f"{tag}-{name}"), "platform": platform}
        )
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": children}
    return str(registry.put_manifest(repository, index, tag)["digest"])
