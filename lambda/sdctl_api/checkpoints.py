"""Which models a runtime may be asked for: what is deployed, and what the model bucket holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from sdctl import contract
from sdctl.contract import RuntimeInfo
from sdctl_api.asked import asked_runtime
from sdctl_lambda.aws import Aws

# Where the guide keeps checkpoints in the model bucket.
CHECKPOINT_PREFIX: Final = "Stable-diffusion/"
CHECKPOINT_SUFFIXES: Final = (".safetensors", ".ckpt")
CACHE_SECONDS: Final = 60.0
# A model that was not there is looked for again sooner: it may just have been uploaded.
MISS_CACHE_SECONDS: Final = 5.0
MAX_PAGES: Final = 10


class BucketCheckpoints:
    """File names of the model bucket's checkpoints, kept for a while. The S3 client is made when asked."""

    def __init__(self, aws: Aws, bucket: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._aws = aws
        self._bucket = bucket
        self._clock = clock
        self._names: tuple[str, ...] = ()
        self._listed_at = float("-inf")

    @property
    def is_set(self) -> bool:
        """Tell whether the deployment has a model bucket."""
        return bool(self._bucket)

    def names_for(self, wanted: list[str]) -> tuple[str, ...]:
        """Return the bucket's checkpoints, read again where the kept list is old or lacks one of `wanted`."""
        age = self._clock() - self._listed_at
        keys = {contract.checkpoint_key(name) for name in self._names}
        is_missing = any(contract.checkpoint_key(name) not in keys for name in wanted)
        if age > (MISS_CACHE_SECONDS if is_missing else CACHE_SECONDS):
            self._names = tuple(self._list())
            self._listed_at = self._clock()
        return self._names

    def _list(self) -> Iterator[str]:
        call: dict[str, Any] = {"Bucket": self._bucket, "Prefix": CHECKPOINT_PREFIX}
        for _ in range(MAX_PAGES):
            page = self._aws.client("s3").list_objects_v2(**call)
            for entry in page.get("Contents", ()):
                name = entry["Key"].removeprefix(CHECKPOINT_PREFIX)
                if name.lower().endswith(CHECKPOINT_SUFFIXES):
                    yield name
            if not page.get("IsTruncated"):
                return
            call["ContinuationToken"] = page["NextContinuationToken"]


def with_bucket_checkpoints(
    document: object, runtimes: Mapping[str, RuntimeInfo], bucket: BucketCheckpoints
) -> Mapping[str, RuntimeInfo]:
    """Add the models that a dynamic runtime may switch to, where a v1alpha2 body asks it for one.

    It knows its own, those of the other runtimes and the guide's default, and what the model bucket holds,
    which is read only where the body names none of the others. No bucket: nothing is known, nothing added.
    """
    runtime, wanted = _asked(document, runtimes)
    if runtime is None or not runtime.dynamic or not wanted or not bucket.is_set:
        return runtimes
    deployed = [info.checkpoint for info in runtimes.values() if info.checkpoint]
    names = dict.fromkeys((*runtime.checkpoints, *deployed, contract.DEFAULT_CHECKPOINT))
    known = replace(runtime, checkpoints=tuple(names))
    unknown = [name for name in wanted if not contract.checkpoint_allowed(name, known)]
    if unknown:
        known = replace(known, checkpoints=(*bucket.names_for(unknown), *known.checkpoints))
    return {**runtimes, runtime.name.lower(): known}


def _asked(document: object, runtimes: Mapping[str, RuntimeInfo]) -> tuple[RuntimeInfo | None, list[str]]:
    task = document.get("task") if isinstance(document, dict) else None
    if not isinstance(task, dict):
        return None, []
    metadata, content = task.get("metadata"), task.get("content")
    if not isinstance(metadata, dict) or not isinstance(content, dict):
        return None, []
    runtime = runtimes.get(asked_runtime(document).lower())
    places = contract.checkpoint_fields(content)
    return runtime, [value for _, value in places if isinstance(value, str) and value]
