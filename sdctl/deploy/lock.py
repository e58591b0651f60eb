"""One operation on a deployment at a time: a lock that is an object in its asset bucket.

It is made and taken over by conditional writes, so that of two only one succeeds, and renewed while it is
held: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
Whoever dies leaves it behind; then it is taken over at once on the same machine, else after some minutes.
How old it is S3 says itself, so that no two clocks are compared.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Final

from sdctl.clients.s3 import S3, StoredObject
from sdctl.errors import AwsError, ConflictError, NotFoundError

RENEWED_EVERY_SECONDS: Final = 30.0
STALE_SECONDS: Final = 180.0


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock: what for, as whom, on which machine (by a number of its own) and process."""

    command: str
    user: str
    host: str
    machine: str
    process: int
    since: str
    token: str

    def described(self) -> str:
        """Say who it is, for an error."""
        who = f"{self.user} on {self.host} (process {self.process})"
        return f"sdctl {self.command} of {who} since {self.since}"


def this_process(command: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Holder:
    """Describe this very process."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = "?"
    since = now().strftime("%Y-%m-%d %H:%M:%S UTC")
    host, machine = platform.node(), f"{uuid.getnode():x}"
    return Holder(command, user, host, machine, os.getpid(), since, uuid.uuid4().hex)


@contextmanager
def deploy_lock(
    s3: S3,
    bucket: str,
    stack_name: str,
    holder: Holder,
    *,
    on_loss: Callable[[], None] = lambda: None,
    stale_seconds: float = STALE_SECONDS,
    renewed_every_seconds: float = RENEWED_EVERY_SECONDS,
) -> Iterator[None]:
    """Hold the lock of a deployment, renewed by a thread of its own, for as long as the body runs.

    Args:
        s3: where the bucket is.
        bucket: the asset bucket, which exists.
        stack_name: the deployment.
        holder: who asks, from `this_process`.
        on_loss: called from the thread when somebody else has taken it.
        stale_seconds: so long after its last renewal it may be taken over.
        renewed_every_seconds: how often it is renewed.

    Raises:
        ConflictError: somebody else holds it; says who and since when.
        AwsError: the bucket cannot be used.
    """
    lock = _Lock(s3, bucket, f"locks/{stack_name}.json", holder)
    lock.take(stale_seconds)
    over = Event()

    def renew() -> None:
        while not over.wait(renewed_every_seconds):
            try:
                lock.renew()
            except ConflictError:
                on_loss()
                return
            except NotFoundError:
                return  # a destroy took the bucket along
            except AwsError:
                continue  # the next turn may succeed; until it is stale nobody takes it

    thread = Thread(target=renew, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        lock.release()


@dataclass(slots=True)
class _Lock:
    s3: S3
    bucket: str
    key: str
    holder: Holder
    etag: str | None = None

    def take(self, stale_seconds: float) -> None:
        try:
            return self.renew()
        except ConflictError:
            found = self.s3.get(self.bucket, self.key)
        other = _read(found) if found else None
        is_ours = other is None or other.token == self.holder.token or _is_gone(other, self.holder)
        if found and other and not is_ours and found.age_seconds < stale_seconds:
            raise ConflictError(
                f"another deploy or destroy of this stack is at work: {other.described()}",
                hint=f"wait for it to end; if it died, its lock ends {stale_seconds:g} s after its last word",
            )
        self.etag = found.etag if found else None
        try:
            self.renew()
        except (ConflictError, NotFoundError) as error:
            raise ConflictError(
                "another deploy or destroy of this stack has just begun", hint="wait for it to end"
            ) from error

    def renew(self) -> None:
        body = json.dumps(asdict(self.holder)).encode()
        self.etag = self.s3.put_if(self.bucket, self.key, body, matching=self.etag)

    def release(self) -> None:
        """Delete the lock if it still is ours; a destroy may have taken the bucket along."""
        try:
            found = self.s3.get(self.bucket, self.key)
            if found and _read(found).token == self.holder.token:
                self.s3.delete(self.bucket, self.key)
        except (AwsError, NotFoundError):
            return  # it ends by itself, as after a crash


def _read(found: StoredObject) -> Holder:
    """Read who holds the lock; one that cannot be read is somebody's whom only age ends."""
    try:
        return Holder(**json.loads(found.body))
    except (ValueError, TypeError):
        return Holder("?", "?", "?", "", 0, "?", "")


def _is_gone(other: Holder, holder: Holder) -> bool:
    """Tell whether the other was a process of this machine that does not run any more."""
    if (other.machine, other.host) != (holder.machine, holder.host) or os.name != "posix":
        return False
    try:
        os.kill(other.process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return other.process == holder.process  # of an earlier start, with our number
