"""Which images go into a cache, under which names, and how large a volume they need; pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

_GIB: Final = 1024**3
# Layers lie on the volume compressed, in the content store, and unpacked. Those of GPU images, Python wheels
# and CUDA libraries for the most part, unpack to two to two and a half times their compressed size.
_UNPACKED_FACTOR: Final = 2.5
# For logs, pods' writable layers and empty directories; the chart's default for nodes with local disks.
_SPARE_GIB: Final = 20
# The kubelet collects images above 85 % (imageGCHighThresholdPercent), so the volume is to stay well below.
# https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/
_FILL: Final = 0.75
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions
_MAX_VALUE: Final = 256
# Of the fifty tags that a resource may have, two an image.
MAX_IMAGES: Final = 18

_NAME_TAG: Final = "sdctl:image-{}"
_DIGEST_TAG: Final = "sdctl:digest-{}"


@dataclass(frozen=True, slots=True)
class Image:
    """An image as nodes ask for it: `name` with its registry, a tag or none, and the digest it has now.

    `layers` has the compressed size in bytes of each layer for the builder's platform, by digest.
    """

    name: str
    tag: str
    digest: str
    layers: Mapping[str, int]

    @property
    def reference(self) -> str:
        """How it is asked for by tag; by digest where it has none."""
        return f"{self.name}:{self.tag}" if self.tag else self.pinned

    @property
    def pinned(self) -> str:
        """How it is asked for by digest: what is pulled, so that it is what was examined."""
        return f"{self.name}@{self.digest}"

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that a pod may ask for it by."""
        return tuple(dict.fromkeys((self.pinned, self.reference)))


def volume_size_gib(images: Iterable[Image]) -> int:
    """Return the size of a volume on which the images leave room for what pods write."""
    layers: dict[str, int] = {}
    for image in images:
        layers.update(image.layers)
    needed = sum(layers.values()) * (1 + _UNPACKED_FACTOR) / _GIB + _SPARE_GIB
    return math.ceil(needed / _FILL)


def image_tags(images: Iterable[Image]) -> dict[str, str]:
    """Return the tags of a snapshot that say what is on it.

    Raises:
        ValueError: more images than tags can name, or a name too long for a tag.
    """
    listed = tuple(images)
    if len(listed) > MAX_IMAGES:
        raise ValueError(f"{len(listed)} images: a snapshot's tags have room for {MAX_IMAGES}")
    tags = {}
    for number, image in enumerate(listed):
        if len(image.reference) > _MAX_VALUE:
            raise ValueError(f"{image.reference} is longer than the {_MAX_VALUE} characters of a tag")
        tags[_NAME_TAG.format(number)] = image.reference
        tags[_DIGEST_TAG.format(number)] = image.digest
    return tags


def cached_images(tags: Mapping[str, str]) -> dict[str, str]:
    """Read what is on a snapshot from its tags: the digest of each image, by its reference."""
    found = {}
    for number in range(MAX_IMAGES):
        name = tags.get(_NAME_TAG.format(number))
        if name:
            found[name] = tags.get(_DIGEST_TAG.format(number), "")
    return found


def fingerprint(images: Iterable[Image], *more: str) -> str:
    """Return what two builds have in common exactly where their snapshots would be alike."""
    parts = sorted(name for image in images for name in image.names)
    return hashlib.sha256("\n".join((*parts, "", *more)).encode()).hexdigest()[:32]
