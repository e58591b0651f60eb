"""Hugging Face: `hf:owner/repo[/file][@revision]` to a commit's file, with the hash that its storage knows.

https://huggingface.co/docs/hub/api
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

from sdctl.clients.downloads import Downloads, SourceError, Token, check_url, origin_of
from sdctl.clients.secrets import find_token
from sdctl.errors import NotFoundError, UsageError
from sdctl.models.published import Published, path_on

ENDPOINT: Final = "https://huggingface.co"
_FORM: Final = "hf:OWNER/REPO[/FILE][@REVISION]"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_WEB: Final = re.compile(r"/([^/]+/[^/]+)/(?:resolve|blob|tree)/([^/]+)(/.+)?")
_WEB_REPO: Final = re.compile(r"/([^/]+)/([^/]+)")
# What else lies at the top of the site.
_NO_OWNERS: Final = (
    "api", "blog", "chat", "collections", "datasets", "docs", "learn", "models", "organizations", "papers",
    "posts", "settings", "spaces", "tasks",
)  # fmt: skip
_TOKEN_HINT: Final = "set HF_TOKEN, or keep it with: keyring set sdctl huggingface"  # noqa: S105


def source_of(url: str) -> str:
    """Turn the address of a file, a folder or a repository into a source; empty for anything else."""
    parts = path_on(url, ("huggingface.co", "www.huggingface.co", "hf.co"))
    if parts is None:
        return ""
    path = parts.path.rstrip("/")
    if match := _WEB.fullmatch(path):
        return f"hf:{match[1]}{unquote(match[3] or '')}@{unquote(match[2])}"
    match = _WEB_REPO.fullmatch(path)
    return f"hf:{match[1]}/{match[2]}" if match and match[1] not in _NO_OWNERS else ""


def find(source: str, downloads: Downloads, env: Mapping[str, str]) -> Published:
    """Find the one file that a source names.

    Raises:
        UsageError: it is misspelled, or names several files.
        NotFoundError: there is no such repository, revision or file.
        SourceError: the repository is closed to us.
    """
    owner, repo, path, revision = _split(source)
    endpoint = (env.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
    check_url(endpoint)
    cache = Path(env.get("HF_HOME") or Path(env.get("HOME") or Path.home()) / ".cache/huggingface")
    token_file = Path(env["HF_TOKEN_PATH"]) if env.get("HF_TOKEN_PATH") else cache / "token"
    value = find_token(env, ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"), "huggingface", token_file)
    token, page = Token(origin_of(endpoint), value), f"{ENDPOINT}/{owner}/{repo}"
    url = f"{endpoint}/api/models/{owner}/{repo}/revision/{quote(revision, safe='')}?blobs=true"
    try:
        answer = downloads.document(url, token)
    except SourceError as error:
        raise _explained(error, source, page, token) from error
    try:
        commit = str(answer["sha"])
        files = {str(one["rfilename"]): one for one in answer["siblings"]}
    except (KeyError, TypeError) as error:
        raise SourceError(f"what {endpoint} says of {owner}/{repo} cannot be read") from error
    chosen = _choose(files, path, f"hf:{owner}/{repo}")
    entry = files[chosen]
    large = entry.get("lfs") or {}
    size = large.get("size", entry.get("size"))
    return Published(
        f"hf:{owner}/{repo}/{chosen}@{commit}", chosen.rsplit("/", 1)[-1],
        f"{endpoint}/{owner}/{repo}/resolve/{quote(commit, safe='')}/{quote(chosen)}", token,
        str(large.get("sha256", "")).lower(), size if isinstance(size, int) else None, page, _TOKEN_HINT,
    )  # fmt: skip


def _split(source: str) -> tuple[str, str, str, str]:
    text, at, revision = source.removeprefix("hf:").partition("@")
    parts = [part for part in text.split("/") if part]
    if len(parts) < 2 or not all(_NAME.fullmatch(part) for part in parts[:2]) or (at and not revision):
        raise UsageError(f"{source[:120]!r} is not {_FORM}")
    return parts[0], parts[1], "/".join(parts[2:]), revision or "main"


def _choose(files: Mapping[str, Any], path: str, repo: str) -> str:
    """Pick the file: the one named, else the only model at that place."""
    if path in files:
        return path
    prefix = f"{path}/" if path else ""
    here = [name for name in files if name.startswith(prefix) and "/" not in name[len(prefix) :]]
    for suffix in (".safetensors", ".ckpt"):
        models = sorted(name for name in here if name.endswith(suffix))
        if len(models) == 1:
            return models[0]
        if models:
            listed = "\n".join(f"  {repo}/{name}" for name in models[:20])
            raise UsageError(f"{repo} has {len(models)} models; name one:\n{listed}")
    if path:
        raise NotFoundError(f"{repo} has no file {path}")
    raise NotFoundError(
        f"{repo} has no model at its top: it may be split over folders, as diffusers loads it",
        hint=f"name a file: {repo}/FOLDER/FILE",
    )


def _explained(error: SourceError, source: str, page: str, token: Token) -> Exception:
    if error.reason in ("RevisionNotFound", "EntryNotFound") or error.status == 404:
        return NotFoundError(f"{source} does not exist", hint=f"look at {page}")
    if error.reason == "RepoNotFound" and not token.value:
        hint = f"check the name; if it is private, {_TOKEN_HINT}"
        return NotFoundError(f"{source} does not exist, or is private", hint=hint)
    return Published(source, "", "", token, page=page, token_hint=_TOKEN_HINT).explain(error)
