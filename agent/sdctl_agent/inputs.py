"""Fetches inputs from where inputs may come from, and from nowhere else.

A task's URLs are a stranger's. So a name is resolved once, every address that it has is checked, and
the connection goes to just such an address; each redirect is treated as a new URL. Size and time are
bounded, nothing is decoded as a picture, no proxy, cookie or credential is used, and what arrives must
be an image, a video or a sound by its own bytes.
"""

from __future__ import annotations

import io
import ipaddress
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urljoin

import urllib3

from sdctl_agent.addresses import Address, Allowlist, is_public, parse_allowlist
from sdctl_agent.errors import AgentError, PermanentError, SettingsError, TransientError
from sdctl_agent.input_urls import REFUSED, UNREACHABLE, Target, parse_target, resolve_host
from sdctl_agent.media import SNIFF_BYTES, is_playable, sniff
from sdctl_agent.runtimes.base import InputFile
from sdctl_agent.runtimes.server import Call, HttpPool, HttpsPool, calling

TOO_LARGE: Final = "input_too_large"
NOT_IMAGE: Final = "input_not_image"
TIMEOUT: Final = "input_timeout"

_REDIRECTS: Final = (301, 302, 303, 307, 308)
_PASSING: Final = (408, 425, 429)
MAX_ADDRESSES: Final = 4
MAX_POOLS: Final = 16
CHUNK_BYTES: Final = 64 * 1024

Resolve = Callable[[str, int], Sequence[str]]
# Opens an object of S3, given bucket and key; raises `PermanentError` or `TransientError`.
OpenObject = Callable[[str, str], AbstractContextManager[Iterator[bytes]]]


@dataclass(frozen=True, slots=True)
class InputLimits:
    """How much and how long one input may take."""

    total_bytes: int = 100 * 1024 * 1024
    total_seconds: float = 120.0
    connect_seconds: float = 5.0
    read_seconds: float = 20.0
    redirects: int = 5


class Inputs:
    """The fetcher that adapters are given: `base.InputFetcher`. Safe to use from several threads."""

    def __init__(
        self,
        allowlist: Allowlist,
        own_bucket: str,
        open_object: OpenObject,
        *,
        limits: InputLimits | None = None,
        resolve: Resolve = resolve_host,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allowlist = allowlist
        self._buckets = allowlist.buckets | {own_bucket}
        self._open_object = open_object
        self._limits = limits or InputLimits()
        self._resolve = resolve
        self._clock = clock
        self._pools: OrderedDict[tuple[str, str, int, str], urllib3.HTTPConnectionPool] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, url: str) -> InputFile:
        """Fetch `url`.

        Raises:
            PermanentError: `input_refused` (not allowed), `input_unreachable` (404 and its kind),
                `input_too_large`, `input_not_image` (nor video nor audio).
            TransientError: `input_timeout` or `input_unreachable`, where it may be there later.
        """
        if url[:5].lower() == "s3://":
            return self._fetch_object(url)
        deadline = self._clock() + self._limits.total_seconds
        target = parse_target(url)
        for _ in range(self._limits.redirects + 1):
            found = self._fetch_once(target, deadline)
            if isinstance(found, InputFile):
                return found
            target = found
        raise PermanentError(f"more than {self._limits.redirects} redirects", code=REFUSED)

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()

    def _fetch_object(self, url: str) -> InputFile:
        bucket, _, key = url[5:].partition("/")
        if bucket not in self._buckets:
            raise PermanentError(f's3 bucket "{bucket}" is not one that inputs may come from', code=REFUSED)
        if not key:
            raise PermanentError("an s3 input URL has no key", code=REFUSED)
        gather = _Gather(self._limits, self._clock, self._clock() + self._limits.total_seconds)
        with self._open_object(bucket, key) as chunks:
            return gather.read(chunks, unquote(key.rsplit("/", 1)[-1]), url)

    def _fetch_once(self, target: Target, deadline: float) -> InputFile | Target:
        """Fetch one URL without following a redirect: the file, or where it leads."""
        addresses = self._checked_addresses(target, deadline)
        for number, address in enumerate(addresses, 1):
            try:
                return self._fetch_from(target, address, deadline)
            except _NoConnectionError as error:
                if number == len(addresses):
                    raise TransientError(f"{target.shown} cannot be reached", code=UNREACHABLE) from error
        raise PermanentError(f"{target.host} has no address", code=UNREACHABLE)

    def _checked_addresses(self, target: Target, deadline: float) -> list[str]:
        """Resolve a host and refuse it if any of its addresses is one that inputs may not come from."""
        texts = _in_time(lambda: self._resolve(target.host, target.port), deadline - self._clock())
        for text in texts:
            try:
                address: Address = ipaddress.ip_address(text)
            except ValueError as error:
                raise PermanentError(f"{target.host} has no usable address", code=REFUSED) from error
            if not is_public(address) and not self._allowlist.allows(target.host, target.port, address):
                raise PermanentError(
                    f"{target.host} is not a host that inputs may come from: its address is not public",
                    code=REFUSED,
                )
        return list(texts)[:MAX_ADDRESSES]

    def _fetch_from(self, target: Target, address: str, deadline: float) -> InputFile | Target:
        call = Call()
        left = deadline - self._clock()
        # Bounds what no timeout of a single read bounds: headers and bodies that come in drips.
        timer = threading.Timer(max(0.0, left), call.abort)
        timer.daemon = True
        timer.start()
        try:
            found = self._exchange(target, address, deadline, call)
            if call.aborted:  # a body without a length then only seems to have ended
                raise _too_slow(target.shown)
            return found
        except (_NoConnectionError, AgentError):
            if call.aborted:
                raise _too_slow(target.shown) from None
            raise
        except (urllib3.exceptions.SSLError, urllib3.exceptions.LocationValueError) as error:
            raise PermanentError(
                f"{target.shown} has no valid certificate or host", code=UNREACHABLE
            ) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if call.aborted or isinstance(error, urllib3.exceptions.TimeoutError):
                raise _too_slow(target.shown) from error
            raise TransientError(f"the connection to {target.shown} broke", code=UNREACHABLE) from error
        finally:
            timer.cancel()

    def _exchange(self, target: Target, address: str, deadline: float, call: Call) -> InputFile | Target:
        left = max(0.1, deadline - self._clock())
        timeout = urllib3.Timeout(
            connect=min(self._limits.connect_seconds, left), read=min(self._limits.read_seconds, left)
        )
        headers = {
            "Host": target.host_header,
            "Accept": "image/*, video/*, audio/*",
            "Accept-Encoding": "identity",
            "User-Agent": "sd-queue-agent",
        }
        with calling(call):
            try:
                response = self._pool(target, address).urlopen(
                    "GET",
                    target.path,
                    headers=headers,
                    retries=False,
                    redirect=False,
                    timeout=timeout,
                    preload_content=False,
                    decode_content=False,
                )
            except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError) as error:
                raise _NoConnectionError from error
        try:
            if response.status in _REDIRECTS:
                return self._redirected(target, response)
            if response.status != 200:
                raise _bad_status(target.shown, response.status)
            return self._read(target, response, deadline)
        finally:
            # Whatever of the body is left is a stranger's to send; the connection is not worth it.
            if response.closed:
                response.release_conn()
            else:
                response.close()

    def _read(self, target: Target, response: urllib3.BaseHTTPResponse, deadline: float) -> InputFile:
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._limits.total_bytes:
            raise _too_large(target.shown, self._limits)
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        chunks = _decoded(_raw_chunks(response), encoding, target.shown)
        return _Gather(self._limits, self._clock, deadline).read(chunks, target.name, target.shown)

    def _redirected(self, target: Target, response: urllib3.BaseHTTPResponse) -> Target:
        location = response.headers.get("location")
        if not location:
            raise PermanentError(f"{target.shown} redirects to nowhere", code=UNREACHABLE)
        base = f"{target.scheme}://{target.host_header}{target.path}"
        try:
            return parse_target(urljoin(base, location))
        except ValueError as error:
            raise PermanentError(f"{target.shown} redirects to no URL", code=REFUSED) from error

    def _pool(self, target: Target, address: str) -> urllib3.HTTPConnectionPool:
        """Return the pool of connections to one address, checked under one name."""
        key = (target.scheme, target.host, target.port, address)
        with self._lock:
            pool = self._pools.get(key)
            if pool is None:
                pool = _make_pool(target, address)
                self._pools[key] = pool
            self._pools.move_to_end(key)
            if len(self._pools) > MAX_POOLS:
                self._pools.popitem(last=False)[1].close()
        return pool


def _make_pool(target: Target, address: str) -> urllib3.HTTPConnectionPool:
    if target.scheme == "http":
        return HttpPool(address, target.port, maxsize=4, block=False)
    return HttpsPool(
        address,
        target.port,
        maxsize=4,
        block=False,
        cert_reqs="CERT_REQUIRED",
        server_hostname=target.host,
        assert_hostname=target.host,
    )


class _NoConnectionError(Exception):
    """No connection to this address; another may do."""


class _Gather:
    """Collects an input's bytes within its limits."""

    def __init__(self, limits: InputLimits, clock: Callable[[], float], deadline: float) -> None:
        self._limits = limits
        self._clock = clock
        self._deadline = deadline

    def read(self, chunks: Iterator[bytes], name: str, shown: str) -> InputFile:
        data = io.BytesIO()
        is_known = False
        for chunk in chunks:
            if data.tell() + len(chunk) > self._limits.total_bytes:
                raise _too_large(shown, self._limits)
            data.write(chunk)
            if self._clock() > self._deadline:
                raise _too_slow(shown)
            if not is_known and data.tell() >= SNIFF_BYTES:
                _content_type(data, shown)
                is_known = True
        # In this order: a look into the buffer once its bytes are given out would copy them all.
        content_type = _content_type(data, shown)
        return InputFile(data.getvalue(), content_type, name)


def _content_type(data: io.BytesIO, shown: str) -> str:
    media = sniff(bytes(data.getbuffer()[:SNIFF_BYTES]))
    if not is_playable(media):
        what = "is empty" if not data.tell() else f"is {media.content_type}"
        raise PermanentError(f"{shown} {what}, not an image, video or sound", code=NOT_IMAGE)
    return media.content_type


def _raw_chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Read what has arrived, without waiting for a chunk to be full."""
    while chunk := response.read1(CHUNK_BYTES, decode_content=False):
        yield chunk


def _decoded(chunks: Iterator[bytes], encoding: str, shown: str) -> Iterator[bytes]:
    """Undo a content encoding that was not asked for, a bounded piece at a time."""
    if encoding in ("", "identity"):
        yield from chunks
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise PermanentError(f'{shown} comes in encoding "{encoding[:20]}"', code=REFUSED)
    decoder = zlib.decompressobj(wbits=47)  # gzip or zlib, by the header
    try:
        for chunk in chunks:
            rest = chunk
            while rest:
                yield decoder.decompress(rest, CHUNK_BYTES)
                rest = decoder.unconsumed_tail
        yield decoder.flush()
    except zlib.error as error:
        raise PermanentError(f"{shown} is not what its encoding says", code=UNREACHABLE) from error


def _in_time(work: Callable[[], Sequence[str]], seconds: float) -> Sequence[str]:
    """Run a blocking look-up in a thread, since nothing else can bound it."""
    done: list[Sequence[str] | AgentError] = []

    def run() -> None:
        try:
            done.append(work())
        except AgentError as error:
            done.append(error)

    thread = threading.Thread(target=run, name="resolve", daemon=True)
    thread.start()
    thread.join(max(0.0, seconds))
    if not done:
        raise TransientError("an input's host cannot be resolved in time", code=TIMEOUT)
    if isinstance(done[0], AgentError):
        raise done[0]
    return done[0]


def _bad_status(shown: str, status: int) -> AgentError:
    message = f"{shown} answers {status}"
    if status >= 500 or status in _PASSING:
        return TransientError(message, code=UNREACHABLE)
    return PermanentError(message, code=UNREACHABLE)


def _too_large(shown: str, limits: InputLimits) -> PermanentError:
    return PermanentError(f"{shown} is larger than {limits.total_bytes} bytes", code=TOO_LARGE)


def _too_slow(shown: str) -> TransientError:
    return TransientError(f"{shown} does not arrive in time", code=TIMEOUT)


def s3_objects(client: Callable[[], Any]) -> OpenObject:
    """Make the opener of S3 objects from what gives the S3 client."""

    @contextmanager
    def opened(bucket: str, key: str) -> Iterator[Iterator[bytes]]:
        from sdctl_agent.aws import AWS_FAILURES, error_code

        shown = f"s3://{bucket}/{key}"
        try:
            answer = client().get_object(Bucket=bucket, Key=key)
        except AWS_FAILURES as error:
            code = error_code(error)
            kind = PermanentError if code in _MISSING else TransientError
            raise kind(f"{shown} cannot be read: {code}", code=UNREACHABLE) from error
        # Not `with answer["Body"]`, which gives the bare urllib3 response.
        with closing(answer["Body"]) as body:
            try:
                yield body.iter_chunks(CHUNK_BYTES)
            except AWS_FAILURES as error:
                raise TransientError(f"{shown} broke off: {error_code(error)}", code=UNREACHABLE) from error

    return opened


_MISSING: Final = frozenset(
    {"NoSuchKey", "NoSuchBucket", "404", "403", "AccessDenied", "InvalidObjectState", "InvalidBucketName"}
)


def make_fetcher(allowlist: Sequence[str], own_bucket: str, s3_client: Callable[[], Any]) -> Inputs:
    """Make the agent's fetcher from its settings.

    Args:
        allowlist: the entries of `INPUT_ALLOWLIST`.
        own_bucket: `S3_BUCKET`, from which inputs may always come.
        s3_client: gives the S3 client when the first `s3://` input is fetched.

    Raises:
        SettingsError: an entry of the allowlist is none.
    """
    try:
        allowed = parse_allowlist(allowlist)
    except ValueError as error:
        raise SettingsError([f"INPUT_ALLOWLIST: {error}"]) from error
    return Inputs(allowed, own_bucket, s3_objects(s3_client))
