"""What can go wrong in the agent, by what has to be done about it.

`TransientError`: the same task may well succeed later, so it is tried again. `PermanentError`: it never
will, so the task ends `failed` with the reason. `RuntimeDownError`: the runtime, not the task, is at
fault, so the task is handed back and no attempt is counted.
"""

from __future__ import annotations


class AgentError(Exception):
    """Base of the agent's own errors: `code`, `message` and maybe `node` go into the result."""

    code = "internal"

    def __init__(self, message: str, *, code: str = "", node: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.node = node
        if code:
            self.code = code

    def as_error(self) -> dict[str, str]:
        """Return the `error` object of the result notification."""
        error = {"code": self.code, "message": self.message}
        if self.node:
            error["node"] = self.node
        return error


class TransientError(AgentError):
    """The task failed for a reason that may pass."""

    code = "transient"


class PermanentError(AgentError):
    """The task can never succeed as it is."""

    code = "invalid_task"


class RuntimeDownError(AgentError):
    """The runtime does not answer, was restarted, or is stuck: hand the task back."""

    code = "runtime_down"


class InterruptedRunError(AgentError):
    """The run was interrupted because the agent asked for it."""

    code = "interrupted"


class SettingsError(ValueError):
    """The environment lacks settings or has bad ones; `problems` names every one."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))
