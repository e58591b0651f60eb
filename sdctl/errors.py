"""Every error that sdctl reports on purpose, and the exit code that each leaves with.

Nothing here imports anything of ours: this module lies below all others.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of the command line, documented in the README."""

    DONE = 0
    BUG = 1
    USAGE = 2
    CONFIG = 3
    NOT_FOUND = 4
    REMOTE = 5
    DEPLOY_FAILED = 6
    WAIT_TIMEOUT = 7
    CONFLICT = 8
    TASK_FAILED = 9
    INTERRUPTED = 130


class SdctlError(Exception):
    """sdctl could not do what was asked."""

    exit_code: ExitCode = ExitCode.BUG
    code: str = "error"

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        """Keep the message and the hint.

        Args:
            message: what went wrong, in one or more lines; the class's docstring where empty.
            hint: the next command to try, or empty.
        """
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.hint = hint
        super().__init__(self.message)


class UsageError(SdctlError):
    """The command line is wrong, or a prompt would be needed without a terminal."""

    exit_code = ExitCode.USAGE
    code = "usage"


class ConfigError(SdctlError):
    """The configuration is missing or invalid."""

    exit_code = ExitCode.CONFIG
    code = "config"


class NotFoundError(SdctlError):
    """The stack, release, queue, task or snapshot does not exist."""

    exit_code = ExitCode.NOT_FOUND
    code = "not_found"


class RemoteError(SdctlError):
    """Another system answered with an error."""

    exit_code = ExitCode.REMOTE
    code = "remote"


class AwsError(RemoteError):
    """An AWS call failed."""

    code = "aws"

    def __init__(self, message: str = "", *, operation: str = "", aws_code: str = "", hint: str = "") -> None:
        """Keep the operation (as `SendMessage`) and AWS's own error code beside the message."""
        super().__init__(message, hint=hint)
        self.operation = operation
        self.aws_code = aws_code


class ApiError(RemoteError):
    """The task API refused a request."""

    code = "api"

    def __init__(self, message: str = "", *, status: int = 0, api_code: str = "", hint: str = "") -> None:
        """Keep the HTTP status and the API's own error code beside the message."""
        super().__init__(message, hint=hint)
        self.status = status
        if api_code:
            self.code = api_code


class ToolError(RemoteError):
    """A program that sdctl drives failed."""

    code = "tool"

    def __init__(self, message: str = "", *, stderr_tail: str = "", hint: str = "") -> None:
        """Keep the last lines of the program's standard error beside the message."""
        super().__init__(message, hint=hint)
        self.stderr_tail = stderr_tail


class MachineError(RemoteError):
    """This machine refused something: a full disk, a folder that is not ours."""

    code = "machine"


class DeployFailedError(SdctlError):
    """A stack or release reached a failed state."""

    exit_code = ExitCode.DEPLOY_FAILED
    code = "deploy_failed"


class WaitTimeoutError(SdctlError):
    """A deadline passed before what was awaited came."""

    exit_code = ExitCode.WAIT_TIMEOUT
    code = "wait_timeout"


class ConflictError(SdctlError):
    """Another operation is in progress, or the target is protected."""

    exit_code = ExitCode.CONFLICT
    code = "conflict"


class TaskFailedError(SdctlError):
    """The submitted task ended as failed."""

    exit_code = ExitCode.TASK_FAILED
    code = "task_failed"
