"""What is run on the builder instance, as lines of shell; pure.

They run in Bottlerocket's control container, and through the admin container on the host itself
(https://github.com/bottlerocket-os/bottlerocket#admin-container). No line holds a credential: the host's own
`host-ctr` signs in to ECR as the instance's role, as it does for the images of its own containers
(https://github.com/bottlerocket-os/bottlerocket-core-kit/tree/develop/sources/host-ctr).
"""

from __future__ import annotations

import shlex
from typing import Final

from sdctl_snapshot.images import Image

USER_DATA: Final = "[settings.host-containers.admin]\nenabled = true\n"
_SOCKET: Final = "/run/containerd/containerd.sock"
_NAMESPACE: Final = "k8s.io"
# What is pinned, the kubelet never collects:
# https://github.com/containerd/containerd/blob/main/internal/cri/labels/labels.go
_LABELS: Final = ("io.cri-containerd.image=managed", "io.cri-containerd.pinned=pinned")
_REGISTRY_CONFIG: Final = "/etc/host-containers/host-ctr.toml"
_HOST: Final = ("apiclient", "exec", "admin", "sheltie")
_CTR: Final = (*_HOST, "ctr", f"--address={_SOCKET}", f"--namespace={_NAMESPACE}")

Script = tuple[str, ...]


def _script(*commands: tuple[str, ...]) -> Script:
    return ("set -eu", *(shlex.join(command) for command in commands))


def admin_is_up() -> Script:
    """Do nothing in the admin container, which is started some time after the control container."""
    return _script((*_HOST, "true"))


def stop_kubelet() -> Script:
    """Stop the kubelet, so that it collects no image and leaves nothing of a node on the volume."""
    return _script((*_HOST, "systemctl", "stop", "kubelet"))


def clear_images() -> Script:
    """Remove the images that the instance brought with it; a node brings its own."""
    listing = shlex.join((*_CTR, "images", "ls", "-q"))
    removal = shlex.join((*_CTR, "images", "rm"))
    return ("set -eu", f"images=$({listing})", f'if [ -n "$images" ]; then {removal} $images; fi')


def pull(image: Image) -> Script:
    """Pull one image by its digest, and give it every name that a pod may use, each pinned."""
    fetch = (
        *_HOST, "host-ctr", f"--containerd-socket={_SOCKET}", f"--namespace={_NAMESPACE}", "pull-image",
        f"--source={image.pinned}", f"--registry-config={_REGISTRY_CONFIG}",
        *(f"--label={label}" for label in _LABELS),
    )  # fmt: skip
    others = [(*_CTR, "images", "tag", "--force", image.pinned, name) for name in image.names[1:]]
    labels = [(*_CTR, "images", "label", name, *_LABELS) for name in image.names]
    return _script(fetch, *others, *labels)


def list_images() -> Script:
    """List the names of all images, one a line."""
    return _script((*_CTR, "images", "ls", "-q"))


def volume_use() -> Script:
    """Write out what of the data volume is in use, after everything has reached it: a number and `%`."""
    return _script((*_HOST, "sync"), (*_HOST, "df", "--output=pcent", "/local"))
