"""One check: what was looked at, what was found, why it matters, and how to put it right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final, Literal

from sdctl.doctor.facts import NOT_READ
from sdctl.reads import Unknown

Result = Literal["pass", "warn", "fail"]
PASS: Final = "pass"  # noqa: S105 - no password
WARN: Final = "warn"
FAIL: Final = "fail"
_POLICY_FIX: Final = (
    "allow these credentials what sdctl iam policy --for deploy prints, or look in the console"
)


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check; `fix` is a command, an address or a step, empty where it passed."""

    id: str
    result: Result
    found: str
    why: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the check as scripts read it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Topic:
    """What a check is about: its id, and why it matters."""

    id: str
    why: str

    def ok(self, found: str) -> Check:
        """Make a check that passed."""
        return Check(self.id, PASS, found, self.why)

    def warn(self, found: str, fix: str) -> Check:
        """Make a check of what works but is not as it should be, or could not be looked at."""
        return Check(self.id, WARN, found, self.why, fix)

    def fail(self, found: str, fix: str) -> Check:
        """Make a check of what a deployment would break on."""
        return Check(self.id, FAIL, found, self.why, fix)

    def unknown(self, fact: Unknown) -> Check:
        """Make a check of what could not be looked at."""
        if fact == NOT_READ:
            return self.warn(f"not checked: {fact.reason}", "sign in first, see the check credentials")
        fix = _POLICY_FIX if fact.is_denied else "try again; if it stays so, look at it in the console"
        return self.warn(f"not checked: {fact.reason}", fix)


def has_failed(checks: Iterable[Check]) -> bool:
    """Tell whether any check failed."""
    return any(check.result == FAIL for check in checks)


def console(partition: str, region: str, path: str) -> str:
    """Return the address of a page of the AWS console."""
    suffix = "amazonaws.cn" if partition == "aws-cn" else "aws.amazon.com"
    return f"https://{region}.console.{suffix}/{path}"
