"""Registries of images and charts, spoken to directly: read, check, mount and send, without any daemon.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md. What a registry says is hostile until
its digest is right.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode, urljoin, urlsplit

from sdctl.clients.oci_http import Answer, OciError, OciHttp, body_of
from sdctl.errors import ConflictError, NotFoundError, UsageError

INDEX_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
# Registries must take manifests of this size; larger ones are nobody's.
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_REPOSITORY: Final = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST: Final = re.compile(r"[A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9a-f:]+\](?::\d{1,5})?")
_DOCKER_HUB: Final = "docker.io"


@dataclass(frozen=True, slots=True)
class Reference:
    """An image or chart in a registry, by tag, by digest, or by both: then the digest is what counts."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read `host/repository:tag`, `host/repository@sha256:…` or both; `oci://` before it is dropped.

        Raises:
            UsageError: it is none, or names no registry.
        """
        named, _, digest = text.removeprefix("oci://").partition("@")
        host, _, path = named.partition("/")
        repository, _, tag = path.partition(":")
        is_host = "." in host or ":" in host or host == "localhost"
        if (
            not is_host
            or not _HOST.fullmatch(host)
            or not _REPOSITORY.fullmatch(repository)
            or (tag and not _TAG.fullmatch(tag))
            or (digest and not DIGEST.fullmatch(digest))
            or not (tag or digest)
        ):
            raise UsageError(f"{text} is not an image with its registry and a tag or digest")
        if host == _DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        return cls(host, repository, tag, digest)

    @property
    def asked(self) -> str:
        """What a registry is asked for: the digest, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of a piece: its type, its digest, and its size in bytes."""

    media_type: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or an index, byte for byte, with what it names."""

    content: bytes
    media_type: str

    @property
    def digest(self) -> str:
        """Its own digest."""
        return digest_of(self.content)

    @property
    def is_index(self) -> bool:
        """Tell whether it lists other manifests, one a platform."""
        return self.media_type in INDEX_TYPES

    def manifests(self) -> tuple[Descriptor, ...]:
        """List the manifests of an index."""
        return tuple(_descriptor(one) for one in _list(self._document(), "manifests"))

    def blobs(self) -> tuple[Descriptor, ...]:
        """List configuration and layers of a manifest; layers that lie elsewhere by licence are left out."""
        document = self._document()
        layers = [one for one in _list(document, "layers") if isinstance(one, dict) and not one.get("urls")]
        return tuple(_descriptor(one) for one in [document.get("config"), *layers])

    def _document(self) -> dict[str, Any]:
        try:
            document = json.loads(self.content)
        except (ValueError, RecursionError) as error:
            raise OciError("a manifest is no JSON") from error
        if not isinstance(document, dict):
            raise OciError("a manifest is no object")
        return document


def digest_of(content: bytes) -> str:
    """Return the digest of a content, as registries write it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _list(document: dict[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    return value if isinstance(value, list) else []


def _descriptor(found: Any) -> Descriptor:
    fields: dict[str, Any] = found if isinstance(found, dict) else {}
    media_type, digest, size = fields.get("mediaType"), fields.get("digest"), fields.get("size")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest) or not isinstance(size, int) or size < 0:
        raise OciError("a manifest names something without digest and size")
    return Descriptor(str(media_type or ""), digest, size)


class Repository:
    """One repository of a registry; safe to share between threads."""

    def __init__(self, http: OciHttp, name: str) -> None:
        """Use the registry's connections."""
        self._http = http
        self.name = name
        self._base = f"/v2/{name}"

    def __str__(self) -> str:
        return f"{self._http.host}/{self.name}"

    def manifest(self, asked: str) -> Manifest:
        """Read a manifest or index by tag or digest.

        Raises:
            NotFoundError: there is none.
            OciError: it is none, or not what its digest says.
        """
        with self._http.send(
            "GET", self._manifest_path(asked), self._scope("pull"), action=f"read {self}:{asked}",
            headers={"Accept": ", ".join(INDEX_TYPES + MANIFEST_TYPES)},
        ) as answer:  # fmt: skip
            self._expect(answer, 200, f"read {self}:{asked}")
            media_type = answer.header("Content-Type").partition(";")[0].strip()
            found = Manifest(body_of(answer, MAX_MANIFEST_BYTES, f"read {self}:{asked}"), media_type)
        if media_type not in INDEX_TYPES + MANIFEST_TYPES:
            raise OciError(f"{self}:{asked} is no image or chart, but {media_type or 'of no type'}")
        if DIGEST.fullmatch(asked) and found.digest != asked:
            raise OciError(f"{self}@{asked} came with another content")
        return found

    def digest(self, asked: str) -> str:
        """Return the digest of what a tag means, empty where there is none; nothing is downloaded."""
        with self._http.send(
            "HEAD", self._manifest_path(asked), self._scope("pull"), action=f"look for {self}:{asked}",
            headers={"Accept": ", ".join(INDEX_TYPES + MANIFEST_TYPES)},
        ) as answer:  # fmt: skip
            if answer.status == 404:
                return ""
            self._expect(answer, 200, f"look for {self}:{asked}")
            found = answer.header("Docker-Content-Digest")
        return found if DIGEST.fullmatch(found) else self.manifest(asked).digest

    def has_blob(self, digest: str) -> bool:
        """Tell whether a blob is there."""
        with self._http.send(
            "HEAD", f"{self._base}/blobs/{digest}", self._scope("pull"), action=f"look for {digest} in {self}"
        ) as answer:
            if answer.status == 404:
                return False
            self._expect(answer, 200, f"look for {digest} in {self}")
            return True

    def open_blob(self, digest: str, start: int = 0) -> Answer:
        """Begin to read a blob, from a byte on; the caller closes the answer.

        Raises:
            OciError: the registry does not give it, or not from there.
        """
        action = f"read {digest} of {self}"
        answer = self._http.send(
            "GET", f"{self._base}/blobs/{digest}", self._scope("pull"), action=action,
            headers={"Range": f"bytes={start}-"} if start else {},
        )  # fmt: skip
        try:
            self._expect(answer, 206 if start else 200, action)
        except BaseException:
            answer.close()
            raise
        return answer

    def mount(self, digest: str, origin: str) -> bool:
        """Take a blob over from another repository of the registry; false where the registry does not."""
        query = urlencode({"mount": digest, "from": origin})
        scope = f"{self._scope('pull,push')} repository:{origin}:pull"
        action = f"mount {digest} in {self}"
        with self._http.send("POST", f"{self._base}/blobs/uploads/?{query}", scope, action=action) as answer:
            # 202: an upload has begun instead, which the registry forgets.
            if answer.status not in (201, 202):
                self._refuse(answer, action)
            return answer.status == 201

    def send_blob(self, descriptor: Descriptor, content: io.RawIOBase | io.BytesIO) -> None:
        """Send a blob in one piece; the registry checks its digest.

        Raises:
            OciError: the registry refuses it, or the line breaks: the whole blob is to be sent again.
        """
        scope, action = self._scope("pull,push"), f"send {descriptor.digest} to {self}"
        with self._http.send("POST", f"{self._base}/blobs/uploads/", scope, action=action) as answer:
            self._expect(answer, 202, action)
            where = self._upload_path(answer.header("Location"))
        where += ("&" if "?" in where else "?") + urlencode({"digest": descriptor.digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(descriptor.size_bytes)}
        with self._http.send(
            "PUT", where, scope, action=action, headers=headers, body=content, is_repeatable=False
        ) as answer:
            self._expect(answer, 201, action)

    def put_manifest(self, manifest: Manifest, asked: str) -> None:
        """Write a manifest under a tag or its digest; what it names must be there.

        Raises:
            ConflictError: the tag stands for something else already, and may not be changed.
        """
        action = f"write {self}:{asked}"
        with self._http.send(
            "PUT", self._manifest_path(asked), self._scope("pull,push"), action=action,
            headers={"Content-Type": manifest.media_type}, body=manifest.content,
        ) as answer:  # fmt: skip
            if answer.status in (400, 409, 412) and b"IMMUTABLE" in (said := answer.beginning()).upper():
                raise ConflictError(
                    f"{self}:{asked} is another image, and its tags cannot be changed: {_reason(said)}",
                    hint="give this one another tag, or delete that one first",
                )
            self._expect(answer, 201, action)

    def _manifest_path(self, asked: str) -> str:
        return f"{self._base}/manifests/{quote(asked, safe=':')}"

    def _scope(self, rights: str) -> str:
        return f"repository:{self.name}:{rights}"

    def _upload_path(self, location: str) -> str:
        """Return where an upload goes, which a registry may say with its own name before it."""
        where = urlsplit(urljoin(f"{self._http.base}{self._base}/", location))
        if not location or f"{where.scheme}://{where.netloc}" != self._http.base:
            raise OciError(f"{self} sends an upload elsewhere: {location[:200]}")
        return where.path + (f"?{where.query}" if where.query else "")

    def _expect(self, answer: Answer, status: int, action: str) -> None:
        if answer.status != status:
            self._refuse(answer, action)

    def _refuse(self, answer: Answer, action: str) -> None:
        detail = _reason(answer.beginning())
        message = f"could not {action}: {answer.status}{f', {detail}' if detail else ''}"
        if answer.status == 404:
            raise NotFoundError(message)
        hint = (
            "sign in to the registry, or check what you may do there" if answer.status in (401, 403) else ""
        )
        raise OciError(message, status=answer.status, hint=hint)


def _reason(body: bytes) -> str:
    """Read the first error of a registry's answer, as far as it has the specified form."""
    try:
        first = json.loads(body)["errors"][0]
        return f"{first.get('code', '')} {first.get('message', '')}".strip()[:200]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""


def as_manifest(document: Mapping[str, Any]) -> Manifest:
    """Make a manifest from what it says; `mediaType` must be in it."""
    content = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    return Manifest(content, str(document["mediaType"]))
