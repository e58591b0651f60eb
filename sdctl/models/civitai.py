"""Civitai: `civitai:VERSION_ID` to the version's main file, with the hash that Civitai computed.

https://developer.civitai.com/docs/api/public-rest
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from sdctl.clients.downloads import Downloads, SourceError, Token, check_url, origin_of
from sdctl.clients.secrets import find_token
from sdctl.errors import NotFoundError, UsageError
from sdctl.models.head import UnsafeModelError
from sdctl.models.published import Published, path_on

ENDPOINT: Final = "https://civitai.com"
_TOKEN_HINT: Final = "set CIVITAI_TOKEN, or keep it with: keyring set sdctl civitai"  # noqa: S105
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def source_of(url: str) -> str:
    """Turn the address of a version's page or download into a source; empty for another host's.

    Raises:
        UsageError: it is the page of a model, which has several versions.
    """
    parts = path_on(url, ("civitai.com", "www.civitai.com"))
    if parts is None:
        return ""
    download = re.fullmatch(r"/api/download/models/(\d+)/?", parts.path)
    version = download[1] if download else next(iter(parse_qs(parts.query).get("modelVersionId", [])), "")
    if not version and re.match(r"/models/\d+(/|$)", parts.path):
        raise UsageError(
            f"{url[:120]!r} is the page of a model, not of one of its versions",
            hint="choose a version there and give its address, with modelVersionId=NUMBER, or civitai:NUMBER",
        )
    return f"civitai:{version}" if version.isdecimal() else ""


def find(source: str, downloads: Downloads, env: Mapping[str, str]) -> Published:
    """Find the main file of a version.

    Raises:
        UsageError: the source is misspelled.
        NotFoundError: there is no such version, or it has no file.
        SourceError: it is closed to us.
    """
    version = source.removeprefix("civitai:")
    if not re.fullmatch(r"[0-9]{1,12}", version):
        raise UsageError(f"{source[:80]!r} is not civitai:VERSION_ID, the number in modelVersionId=…")
    endpoint = (env.get("CIVITAI_ENDPOINT") or ENDPOINT).rstrip("/")
    check_url(endpoint)
    value = find_token(env, ("CIVITAI_TOKEN", "CIVITAI_API_TOKEN", "CIVITAI_API_KEY"), "civitai")
    token = Token(origin_of(endpoint), value)
    try:
        answer = downloads.document(f"{endpoint}/api/v1/model-versions/{version}", token)
    except SourceError as error:
        if error.status == 404:
            raise NotFoundError(
                f"{source} does not exist",
                hint="the number is a version's, the modelVersionId=… of its page, not the model's",
            ) from error
        page = f"{ENDPOINT}/models?query={version}"
        raise Published(source, "", "", token, page=page, token_hint=_TOKEN_HINT).explain(error) from error
    if not isinstance(answer, dict):
        raise SourceError(f"what {endpoint} says of {source} cannot be read")
    return _published(source, version, answer, endpoint, token)


def _published(
    source: str, version: str, answer: Mapping[str, Any], endpoint: str, token: Token
) -> Published:
    files = [one for one in answer.get("files") or () if isinstance(one, dict)]
    if not files:
        raise NotFoundError(f"{source} has no file")
    chosen = max(files, key=_preference)
    for scan, words in (("virusScanResult", "virus scan"), ("pickleScanResult", "scan of pickles")):
        if chosen.get(scan) == "Danger":
            raise UnsafeModelError(f"Civitai's {words} calls the file of {source} dangerous")
    sha256 = str((chosen.get("hashes") or {}).get("SHA256", "")).lower()
    query = urlsplit(str(chosen.get("downloadUrl", ""))).query
    url = f"{endpoint}/api/download/models/{version}{f'?{query}' if query else ''}"
    page = f"{ENDPOINT}/models/{answer.get('modelId', '')}?modelVersionId={version}"
    return Published(
        source, str(chosen.get("name", "")), url, token, sha256 if _SHA256.fullmatch(sha256) else "",
        None, page, _TOKEN_HINT,
    )  # fmt: skip


def _preference(file: Mapping[str, Any]) -> tuple[bool, bool, bool]:
    """A model before its training data, safetensors before a pickle, the main one before the others."""
    is_safe = (file.get("metadata") or {}).get("format") == "SafeTensor"
    is_model = str(file.get("type", "")).endswith("Model") or file.get("type") == "VAE"
    return is_model, is_safe, bool(file.get("primary"))
