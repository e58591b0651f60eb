"""Copying between two registries over real HTTP: whole, once, resumed; and servers that fail or lie."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fakes.oci_registry import INDEX, MANIFEST, Fault, OciRegistry, oci_registry, sha256
from sdctl.clients.oci import Reference, Repository
from sdctl.clients.oci_http import OciError, OciHttp
from sdctl.clients.registries import RegistryLogin
from sdctl.errors import ConflictError, NotFoundError, UsageError
from sdctl.images.copying import Copied, Copy, Progress, copy_all
from sdctl.polling import Clock
from support.emulator import free_port

CLOCK = Clock(monotonic=time.monotonic, sleep=lambda seconds: None, uniform=lambda low, high: high)
SMALL, LARGE = b"small layer", bytes(range(256)) * 12_000  # 3 MB


@pytest.fixture
def source() -> Iterator[OciRegistry]:
    with oci_registry() as registry:
        yield registry


@pytest.fixture
def target() -> Iterator[OciRegistry]:
    with oci_registry(repositories={"mirror/app", "mirror/other"}, is_immutable=True) as registry:
        yield registry


def repository(registry: OciRegistry, name: str, login: RegistryLogin | None = None) -> Repository:
    return Repository(OciHttp(registry.host, login=login, clock=CLOCK), name)


def copy(source: OciRegistry, target: OciRegistry, asked: str = "1.0", tag: str = "1.0") -> list[Copied]:
    wanted = Copy(repository(source, "app"), asked, repository(target, "mirror/app"), tag)
    return copy_all([wanted], clock=CLOCK)


def test_every_platform_arrives_under_the_same_digest(source: OciRegistry, target: OciRegistry) -> None:
    digest = source.put_image("app", "1.0", SMALL, LARGE, platforms=3)
    [copied] = copy(source, target)
    assert (copied.digest, copied.is_new) == (digest, True)
    assert target.is_whole("mirror/app", "1.0")
    assert target.is_whole("mirror/app", digest)
    assert target.manifests["mirror/app", "1.0"] == source.manifests["app", "1.0"]


def test_an_image_by_digest_alone_arrives_without_a_tag(source: OciRegistry, target: OciRegistry) -> None:
    digest = source.put_image("app", "1.0", SMALL)
    copy(source, target, asked=digest, tag="")
    assert target.is_whole("mirror/app", digest)
    assert ("mirror/app", "1.0") not in target.manifests


def test_a_second_run_sends_nothing(source: OciRegistry, target: OciRegistry) -> None:
    source.put_image("app", "1.0", SMALL, LARGE)
    copy(source, target)
    target.requests.clear()
    [copied] = copy(source, target)
    assert not copied.is_new
    assert {method for method, _ in target.requests} == {"HEAD"}


def test_an_interrupted_run_goes_on_with_what_is_missing(source: OciRegistry, target: OciRegistry) -> None:
    source.put_image("app", "1.0", SMALL, LARGE)
    source.faults.append(Fault("GET", sha256(LARGE), times=99, status=403))
    with pytest.raises(OciError, match="403"):
        copy(source, target)
    assert ("mirror/app", "1.0") not in target.manifests
    source.faults.clear()
    sent = {digest for repository, digest in target.blobs}
    target.requests.clear()
    copy(source, target)
    assert target.is_whole("mirror/app", "1.0")
    assert not sent & target.uploads().keys()


def test_a_blob_that_two_repositories_need_is_sent_once_and_mounted(
    source: OciRegistry, target: OciRegistry
) -> None:
    source.put_image("app", "1.0", LARGE)
    source.put_image("other", "2.0", LARGE)
    wanted = [
        Copy(repository(source, name), tag, repository(target, f"mirror/{name}"), tag)
        for name, tag in (("app", "1.0"), ("other", "2.0"))
    ]
    copy_all(wanted, clock=CLOCK)
    assert target.uploads()[sha256(LARGE)] == 1
    assert target.is_whole("mirror/app", "1.0")
    assert target.is_whole("mirror/other", "2.0")
    target.mounts = False
    target.blobs.clear()
    target.manifests.clear()
    copy_all(wanted, clock=CLOCK)
    assert target.uploads()[sha256(LARGE)] == 3
    assert target.is_whole("mirror/other", "2.0")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", sha256(LARGE), times=3, cut_after_bytes=1_000_000),
        Fault("GET", sha256(LARGE), times=2, status=503),
        Fault("GET", "/manifests/", times=3, status=500),
        Fault("GET", "/manifests/1.0", times=2, status=429, headers={"Retry-After": "1"}),
    ],
    ids=["cut", "busy", "ill", "hasty"],
)
def test_a_source_that_stumbles_is_taken_up_where_it_broke(
    source: OciRegistry, target: OciRegistry, fault: Fault
) -> None:
    source.put_image("app", "1.0", SMALL, LARGE)
    source.faults.append(
        Fault(fault.method, fault.path, fault.times, fault.status, fault.headers, fault.cut_after_bytes)
    )
    copy(source, target)
    assert target.is_whole("mirror/app", "1.0")
    assert target.uploads()[sha256(LARGE)] == 1  # the target noticed nothing


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", "/blobs/uploads/", times=2, cut_after_bytes=500_000),
        Fault("POST", "/blobs/uploads/", times=3, status=500),
        Fault("PUT", "/manifests/1.0", times=2, status=502),
        Fault("HEAD", "/blobs/", times=4, status=503),
    ],
    ids=["cut", "no upload", "no manifest", "no look"],
)
def test_a_target_that_stumbles_gets_it_again(source: OciRegistry, target: OciRegistry, fault: Fault) -> None:
    source.put_image("app", "1.0", SMALL, LARGE)
    target.faults.append(
        Fault(fault.method, fault.path, fault.times, fault.status, fault.headers, fault.cut_after_bytes)
    )
    copy(source, target)
    assert target.is_whole("mirror/app", "1.0")


def test_a_blob_that_came_wrong_is_an_error_and_leaves_no_tag(
    source: OciRegistry, target: OciRegistry
) -> None:
    source.put_image("app", "1.0", LARGE)
    source.faults.append(Fault("GET", sha256(LARGE), times=9, content=LARGE[:-1] + b"!"))
    with pytest.raises(OciError, match="another content"):
        copy(source, target)
    assert ("mirror/app", "1.0") not in target.manifests


def test_a_manifest_that_is_not_what_its_digest_says_is_refused(
    source: OciRegistry, target: OciRegistry
) -> None:
    digest = source.put_image("app", "1.0", SMALL)
    source.manifests["app", digest] = (INDEX, b'{"schemaVersion":2}')
    with pytest.raises(OciError, match="another content"):
        copy(source, target, asked=digest)


@pytest.mark.parametrize(
    "content",
    [
        b"not json", b"[]", b'{"config":{}}', b'{"config":{"digest":"sha256:../../x","size":1}}',
        b'{"config":{"digest":"sha256:' + b"0" * 64 + b'","size":-1}}', b"[" * 100_000, b"x" * 5_000_000,
    ],
    ids=["no json", "a list", "no digest", "a path", "negative", "nested", "huge"],
)  # fmt: skip
def test_a_hostile_manifest_is_an_error_of_ours(
    source: OciRegistry, target: OciRegistry, content: bytes
) -> None:
    source.manifests["app", "1.0"] = (MANIFEST, content)
    with pytest.raises(OciError):
        copy(source, target)


def test_an_index_that_contains_itself_ends(source: OciRegistry, target: OciRegistry) -> None:
    child = source.put_manifest("app", {"schemaVersion": 2, "mediaType": INDEX, "manifests": []})
    for _ in range(5):
        child = source.put_manifest(
            "app", {"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}, "1.0"
        )
    with pytest.raises(OciError, match="nested"):
        copy(source, target)


def test_a_tag_that_is_another_image_already_is_a_conflict(source: OciRegistry, target: OciRegistry) -> None:
    target.put_image("mirror/app", "1.0", b"an older one")
    source.put_image("app", "1.0", SMALL)
    with pytest.raises(ConflictError, match="another image"):
        copy(source, target)


def test_what_is_not_there_is_not_found(source: OciRegistry, target: OciRegistry) -> None:
    with pytest.raises(NotFoundError, match=r"app:1\.0"):
        copy(source, target)
    source.put_image("app", "1.0", SMALL)
    target.repositories = set()
    with pytest.raises(NotFoundError, match="NAME_UNKNOWN"):
        copy(source, target)


def test_tokens_for_anybody_and_a_login_are_both_spoken(target: OciRegistry) -> None:
    target.login = base64.b64encode(b"AWS:secret").decode()
    login = RegistryLogin(target.host, "AWS", "secret")
    with oci_registry(token="for-anybody") as source:
        source.put_image("app", "1.0", SMALL)
        wanted = Copy(repository(source, "app"), "1.0", repository(target, "mirror/app", login), "1.0")
        copy_all([wanted], clock=CLOCK)
        assert any("scope=repository%3Aapp%3Apull" in path for _, path in source.requests)
    assert target.is_whole("mirror/app", "1.0")
    with pytest.raises(OciError, match="wants a login"):
        repository(target, "mirror/app").digest("1.0")
    with pytest.raises(OciError, match="401"):
        repository(target, "mirror/app", RegistryLogin(target.host, "AWS", "wrong")).digest("1.0")


def test_where_blobs_lie_elsewhere_no_authorization_goes_along(target: OciRegistry) -> None:
    with oci_registry() as store, oci_registry(token="secret-token") as source:
        source.redirects_to = f"http://{store.host}"
        source.put_image("app", "1.0", LARGE)
        for (name, _), content in source.blobs.items():
            store.put_blob(name, content)
        copy(source, target)
        assert target.is_whole("mirror/app", "1.0")
        assert {given for _, given in store.authorizations} == {""}


@pytest.mark.parametrize(
    "where", ["http://192.0.2.1/x", "file:///etc/passwd", "http://169.254.169.254/latest"]
)
def test_a_redirect_off_https_is_refused(source: OciRegistry, target: OciRegistry, where: str) -> None:
    source.put_image("app", "1.0", LARGE)
    source.faults.append(Fault("GET", sha256(LARGE), times=9, status=307, headers={"Location": where}))
    with pytest.raises(OciError, match="not https"):
        copy(source, target)


def test_progress_ends_with_every_byte_counted_once(source: OciRegistry, target: OciRegistry) -> None:
    source.put_image("app", "1.0", SMALL, LARGE)
    target.faults.append(Fault("PUT", "/blobs/uploads/", times=2, cut_after_bytes=100_000))
    seen: list[tuple[int, int]] = []
    last: list[Progress] = []

    def tell(progress: Progress) -> None:
        seen.append((progress.bytes_sent, progress.bytes))
        last[:] = [progress]

    copy_all(
        [Copy(repository(source, "app"), "1.0", repository(target, "mirror/app"), "1.0")],
        tell=tell,
        clock=CLOCK,
    )
    assert last[0].bytes_sent == last[0].bytes == sum(map(len, source.blobs.values()))
    assert last[0].blobs_done == last[0].blobs == 4
    assert len(seen) > 5


def test_the_first_error_ends_the_other_copies_soon(source: OciRegistry, target: OciRegistry) -> None:
    source.put_image("app", "1.0", *(bytes([number]) * 2_000_000 for number in range(12)), platforms=1)
    source.faults.append(Fault("GET", "/blobs/", times=1, status=403))
    with pytest.raises(OciError, match="403"):
        copy(source, target)
    assert len(target.blobs) < 12


def test_a_blob_is_never_held_whole(source: OciRegistry, target: OciRegistry) -> None:
    source.put_image("app", "1.0", LARGE)
    sizes: list[int] = []
    sent = Repository.send_blob

    def watched(self: Repository, descriptor: object, content: io.RawIOBase) -> None:
        real = content.read

        def read(size: int = -1) -> bytes:
            piece = real(size)
            assert piece is not None
            sizes.append(len(piece))
            return piece

        content.read = read  # type: ignore[method-assign]
        sent(self, descriptor, content)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Repository, "send_blob", watched)
        copy(source, target)
    assert max(sizes) <= 256 * 1024


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("public.ecr.aws/a/b:1.0", ("public.ecr.aws", "a/b", "1.0", "")),
        ("oci://127.0.0.1:5000/a:v1", ("127.0.0.1:5000", "a", "v1", "")),
        ("docker.io/nginx:1", ("docker.io", "library/nginx", "1", "")),
        (f"ghcr.io/a/b:1@{sha256(b'')}", ("ghcr.io", "a/b", "1", sha256(b""))),
    ],
)
def test_references_are_read(text: str, expected: tuple[str, str, str, str]) -> None:
    found = Reference.parse(text)
    assert (found.host, found.repository, found.tag, found.digest) == expected


@pytest.mark.parametrize(
    "text",
    ["nginx:1", "a/b:1", "ghcr.io/a/b", "ghcr.io/../b:1", "ghcr.io/A:1", "ghcr.io/a:1 2",
     "ghcr.io/a@sha256:12", "https://ghcr.io/a:1", "ghcr.io:99999999/a:1", ""],
)  # fmt: skip
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Reference.parse(text)


def test_a_real_registry_takes_it(source: OciRegistry, tmp_path: Path) -> None:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("no docker-registry: apt-get install docker-registry")
    port = free_port()
    settings = tmp_path / "registry.yml"
    settings.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\nlog: {{level: error}}\n"
    )
    digest = source.put_image("app", "1.0", SMALL, LARGE)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(settings)], stdout=log, stderr=log)
    try:
        target = Repository(OciHttp(f"127.0.0.1:{port}"), "mirror/app")
        for _ in range(2):
            [copied] = copy_all([Copy(repository(source, "app"), "1.0", target, "1.0")])
            assert copied.digest == digest == target.digest("1.0")
        assert target.mount(sha256(LARGE), "mirror/app")
    finally:
        process.kill()
        process.wait(10)


def test_copies_from_several_threads_share_one_connection_pool(
    source: OciRegistry, target: OciRegistry
) -> None:
    source.put_image("app", "1.0", SMALL)
    origin, mirror = repository(source, "app"), repository(target, "mirror/app")
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(copy_all, [Copy(origin, "1.0", mirror, "1.0")], clock=CLOCK) for _ in range(4)]
    assert {run.result()[0].digest for run in runs} == {mirror.digest("1.0")}
    assert target.is_whole("mirror/app", "1.0")
