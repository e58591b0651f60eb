"""A file as its publisher describes it, and how a refusal is to be understood."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from sdctl.clients.downloads import NO_TOKEN, SourceError, Token


@dataclass(frozen=True, slots=True)
class Published:
    """One file of a publisher.

    `source` names it for good; `page` is where its terms are accepted, `token_hint` how a token is given;
    both are empty for an address that no publisher is known for.
    """

    source: str
    name: str
    url: str
    token: Token = NO_TOKEN
    sha256: str = ""
    size_bytes: int | None = None
    page: str = ""
    token_hint: str = ""

    def explain(self, error: SourceError) -> SourceError:
        """Say what a refusal means: sign in, accept the terms, or look for another file."""
        is_closed = error.status in (401, 403) or error.reason == "page"
        if not is_closed:
            return error
        if not self.page:
            hint = (
                error.hint or "the server wants a sign-in that sdctl cannot do: download it, upload the file"
            )
            return SourceError(error.message, status=error.status, reason=error.reason, hint=hint)
        if not self.token.value:
            hint = f"accept its terms at {self.page}, then {self.token_hint}"
            return SourceError(
                f"{self.source} is only for who has signed in ({error.message})",
                status=error.status, reason=error.reason, hint=hint,
            )  # fmt: skip
        return SourceError(
            f"{self.source} is not open to your token ({error.message})",
            status=error.status, reason=error.reason,
            hint=f"accept its terms at {self.page} with the account of the token, or check the token",
        )  # fmt: skip


def path_on(url: str, hosts: tuple[str, ...]) -> SplitResult | None:
    """Take an address apart, where it is one of these hosts'; None where it is not, or is no address."""
    try:
        parts = urlsplit(url)
        return parts if parts.hostname in hosts else None
    except ValueError:
        return None
