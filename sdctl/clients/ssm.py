"""SSM: the parameters by which AWS names its images and runtimes are found, and commands on instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import AwsError, NotFoundError

# https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameters.html
_BATCH: Final = 10
_SHELL: Final = "AWS-RunShellScript"
# Until the agent on the instance takes a command; the least that SSM allows.
_DELIVERY_SECONDS: Final = 30
_MAX_TEXT: Final = 2000
# https://docs.aws.amazon.com/systems-manager/latest/userguide/monitor-commands.html
_GOES_ON: Final = frozenset({"Pending", "InProgress", "Delayed", "Cancelling"})
_ENDS: Final = frozenset({"Success", "Cancelled", "TimedOut", "Failed"})
_MEANINGS: Final = {
    "DeliveryTimedOut": "the instance did not take the command in time",
    "ExecutionTimedOut": "it did not end in time",
    "Undeliverable": "the instance does not answer Systems Manager",
    "Terminated": "it was stopped because other commands failed",
    "Cancelled": "somebody cancelled it",
    "InvalidPlatform": "the instance has another system than the command is for",
    "AccessDenied": "the instance's role may not run it",
    "NoInstancesInTag": "there is no such instance",
    "ConnectionLost": "the connection to the instance was lost",
}


@dataclass(frozen=True, slots=True)
class Invocation:
    """How a command stands: `failure` says why it failed, with the command's own words; empty otherwise."""

    is_over: bool
    output: str = ""
    failure: str = ""


class Ssm:
    """The calls that we make, typed."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; the client is made on first use."""
        self._aws = aws

    def parameters(self, names: Sequence[str]) -> dict[str, str]:
        """Return the values of parameters; those that do not exist are left out."""
        found: dict[str, str] = {}
        for start in range(0, len(names), _BATCH):
            with aws_errors("read the parameters of images"):
                answer = self._aws.client("ssm").get_parameters(Names=list(names[start : start + _BATCH]))
            found |= {one["Name"]: one["Value"] for one in answer["Parameters"]}
        return found

    def below(self, path: str) -> dict[str, str]:
        """Return the values of all parameters below a path, by their full names."""
        with aws_errors(f"read the parameters below {path}"):
            pages = self._aws.client("ssm").get_paginator("get_parameters_by_path").paginate(Path=path)
            return {one["Name"]: one["Value"] for page in pages for one in page["Parameters"]}

    def parameter(self, name: str) -> str:
        """Return the value of one parameter.

        Raises:
            NotFoundError: there is none of that name.
        """
        try:
            with aws_errors(f"read the parameter {name}"):
                return str(self._aws.client("ssm").get_parameter(Name=name)["Parameter"]["Value"])
        except AwsError as error:
            if error.aws_code != "ParameterNotFound":
                raise
            raise NotFoundError(error.message) from error

    def is_online(self, instance_id: str) -> bool:
        """Tell whether an instance takes commands."""
        filters = [{"Key": "InstanceIds", "Values": [instance_id]}]
        with aws_errors(f"ask whether {instance_id} takes commands"):
            found = self._aws.client("ssm").describe_instance_information(Filters=filters)
        return any(one.get("PingStatus") == "Online" for one in found["InstanceInformationList"])

    def send(self, instance_id: str, lines: Sequence[str], timeout_seconds: int) -> str:
        """Begin to run lines of shell on an instance and return the command's id.

        The lines stay readable in the account's history of commands: no secret may be among them.
        """
        with aws_errors(f"run a command on {instance_id}"):
            answer = self._aws.client("ssm").send_command(
                InstanceIds=[instance_id], DocumentName=_SHELL, TimeoutSeconds=_DELIVERY_SECONDS,
                Parameters={"commands": list(lines), "executionTimeout": [str(timeout_seconds)]},
            )  # fmt: skip
        return str(answer["Command"]["CommandId"])

    def invocation(self, command_id: str, instance_id: str) -> Invocation | None:
        """Look how a command stands; None where SSM does not know it yet.

        Raises:
            AwsError: its state is one that sdctl does not know.
        """
        try:
            with aws_errors(f"look after a command on {instance_id}"):
                found = self._aws.client("ssm").get_command_invocation(
                    CommandId=command_id, InstanceId=instance_id
                )
        except AwsError as error:
            if error.aws_code == "InvocationDoesNotExist":
                return None
            raise
        status, details = str(found["Status"]), str(found.get("StatusDetails") or found["Status"])
        if status in _GOES_ON:
            return Invocation(is_over=False)
        if status not in _ENDS:
            raise AwsError(f"a command on {instance_id} is in a state that sdctl does not know: {status}")
        output = str(found.get("StandardOutputContent") or "")
        if status == "Success":
            return Invocation(is_over=True, output=output)
        said = "\n".join(filter(None, (output, str(found.get("StandardErrorContent") or ""))))
        return Invocation(True, output, _failure(details.replace(" ", ""), found.get("ResponseCode"), said))


def _failure(details: str, exit_code: object, said: str) -> str:
    """Say why a command failed: SSM's reason, its exit code, and the end of what it wrote."""
    if details in _MEANINGS:
        reason = f"{_MEANINGS[details]} ({details})"
    else:
        reason = (
            f"{details}, exit code {exit_code}" if isinstance(exit_code, int) and exit_code >= 0 else details
        )
    said = said.strip()[-_MAX_TEXT:]
    return f"{reason}: {said}" if said else f"{reason}; it wrote nothing"
