"""The instance that builds an image cache, and the role by which it pulls images and takes commands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from sdctl.clients.aws import Aws, aws_errors
from sdctl.clients.instance_profiles import InstanceProfiles
from sdctl.errors import AwsError, ConfigError, ConflictError, NotFoundError
from sdctl.polling import REAL_CLOCK, Clock, Pace, poll

OWNER_TAG: Final = "sdctl:builder"
DATA_DEVICE: Final = "/dev/xvdb"
_GONE: Final = ("terminated",)
_EXISTS: Final = "EntityAlreadyExists"
# No default VPC, and none of its subnets: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
_NO_NETWORK_CODES: Final = frozenset({"VPCIdNotSpecified", "MissingInput"})
# gp3's; it lives for less than an hour, and pulling is what takes the time.
_IOPS: Final = 4000
_THROUGHPUT_MIB_PER_SECOND: Final = 1000
# IAM tells all regions of a new profile within seconds.
_PROFILE_SECONDS: Final = 90.0


@dataclass(frozen=True, slots=True)
class Launch:
    """What a builder is launched with; empty where EC2's own default is meant."""

    image_id: str
    instance_type: str
    volume_size_gib: int
    user_data: str
    subnet_id: str = ""
    security_group_ids: tuple[str, ...] = ()
    has_public_ip: bool | None = None
    kms_key: str = ""


@dataclass(frozen=True, slots=True)
class BuilderInstance:
    """A builder that is not terminated, and who launched it."""

    id: str
    state: str
    owner: str


class Builders:
    """The calls that a build makes, typed.

    Args:
        aws: the session.
        tags: of everything that is made.
        owner: who builds, as `OWNER_TAG` holds it.
        clock: for the wait until a new profile is known.
    """

    def __init__(self, aws: Aws, tags: Mapping[str, str], owner: str, clock: Clock = REAL_CLOCK) -> None:
        self._aws = aws
        self._owner = owner
        self._tags = [{"Key": key, "Value": value} for key, value in {**tags, OWNER_TAG: owner}.items()]
        self._clock = clock

    def instances(self, stack_tag: tuple[str, str]) -> list[BuilderInstance]:
        """List the builders of a deployment that are not terminated."""
        filters = [
            {"Name": f"tag:{stack_tag[0]}", "Values": [stack_tag[1]]},
            {"Name": "tag-key", "Values": [OWNER_TAG]},
        ]
        with aws_errors("list the builders"):
            pages = self._aws.client("ec2").get_paginator("describe_instances").paginate(Filters=filters)
            found = [one for page in pages for group in page["Reservations"] for one in group["Instances"]]
        return [
            BuilderInstance(one["InstanceId"], one["State"]["Name"], _tags(one).get(OWNER_TAG, ""))
            for one in found
            if one["State"]["Name"] not in _GONE
        ]

    def launch(self, wanted: Launch, profile: str) -> str:
        """Launch a builder; it is terminated, not stopped, where its own system shuts down.

        Raises:
            ConfigError: the account has no default network, and no subnet is given.
            AwsError: EC2 refuses.
        """
        arguments = self._arguments(wanted, profile)

        def attempt() -> str | None:
            try:
                with aws_errors("launch the builder"):
                    answer = self._aws.client("ec2").run_instances(**arguments)
            except AwsError as error:
                if error.aws_code in _NO_NETWORK_CODES:
                    raise ConfigError(
                        "there is no default VPC to launch the builder in", hint="name a subnet with --subnet"
                    ) from error
                if error.aws_code == "InvalidParameterValue" and "nstance profile" in _joined(error.message):
                    return None
                raise
            return str(answer["Instances"][0]["InstanceId"])

        return poll(
            attempt, awaited=f"EC2 to know the instance profile {profile}", timeout_seconds=_PROFILE_SECONDS,
            pace=Pace(2.0, 1.5, 10.0), clock=self._clock,
        )  # fmt: skip

    def _arguments(self, wanted: Launch, profile: str) -> dict[str, Any]:
        volume: dict[str, Any] = {
            "VolumeSize": wanted.volume_size_gib, "VolumeType": "gp3", "Iops": _IOPS,
            "Throughput": _THROUGHPUT_MIB_PER_SECOND, "Encrypted": True, "DeleteOnTermination": True,
        }  # fmt: skip
        if wanted.kms_key:
            volume["KmsKeyId"] = wanted.kms_key
        interface: dict[str, Any] = {"DeviceIndex": 0, "DeleteOnTermination": True}
        if wanted.subnet_id:
            interface["SubnetId"] = wanted.subnet_id
        if wanted.security_group_ids:
            interface["Groups"] = list(wanted.security_group_ids)
        if wanted.has_public_ip is not None:
            interface["AssociatePublicIpAddress"] = wanted.has_public_ip
        return {
            "ImageId": wanted.image_id, "InstanceType": wanted.instance_type, "MinCount": 1, "MaxCount": 1,
            "UserData": wanted.user_data, "IamInstanceProfile": {"Name": profile},
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
            "BlockDeviceMappings": [{"DeviceName": DATA_DEVICE, "Ebs": volume}],
            "NetworkInterfaces": [interface],
            "TagSpecifications": [
                {"ResourceType": kind, "Tags": self._tags} for kind in ("instance", "volume")
            ],
        }  # fmt: skip

    def describe(self, instance_id: str) -> tuple[str, str, dict[str, str]]:
        """Return an instance's state, its reason, and its volumes by device.

        The state is `unknown` where EC2 does not list it: just after its launch, or an hour after its end.
        """
        filters = [{"Name": "instance-id", "Values": [instance_id]}]
        with aws_errors(f"look at {instance_id}"):
            pages = self._aws.client("ec2").get_paginator("describe_instances").paginate(Filters=filters)
            found = [one for page in pages for group in page["Reservations"] for one in group["Instances"]]
        if not found:
            return "unknown", "", {}
        [one] = found
        volumes = {
            device["DeviceName"]: device["Ebs"]["VolumeId"]
            for device in one.get("BlockDeviceMappings", ())
            if "Ebs" in device
        }
        return one["State"]["Name"], one.get("StateReason", {}).get("Message", ""), volumes

    def stop(self, instance_id: str) -> None:
        """Begin to stop an instance."""
        with aws_errors(f"stop {instance_id}"):
            self._aws.client("ec2").stop_instances(InstanceIds=[instance_id])

    def terminate(self, instance_id: str) -> None:
        """Begin to terminate an instance; one that is gone is terminated already."""
        with suppress(NotFoundError), aws_errors(f"terminate {instance_id}"):
            self._aws.client("ec2").terminate_instances(InstanceIds=[instance_id])

    def role_owner(self, name: str) -> str | None:
        """Return who made the builder's role, or None where neither it nor its profile is there."""
        iam = self._aws.client("iam")
        with suppress(NotFoundError), aws_errors(f"look for the role {name}"):
            return _tags(iam.get_role(RoleName=name)["Role"]).get(OWNER_TAG, "")
        with suppress(NotFoundError), aws_errors(f"look for the instance profile {name}"):
            profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
            return _tags(profile).get(OWNER_TAG, "")
        return None

    def make_role(self, name: str, policies: Sequence[str], service: str, boundary: str = "") -> None:
        """Make a role for instances with managed policies, and its instance profile.

        Args:
            name: of both.
            policies: the ARNs.
            service: who may take the role.
            boundary: ARN of a permissions boundary, or empty.

        Raises:
            ConflictError: somebody else has made it.
        """
        iam = self._aws.client("iam")
        trust = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}],
        }
        limits = {"PermissionsBoundary": boundary} if boundary else {}
        try:
            with aws_errors(f"make the role {name}"):
                iam.create_role(
                    RoleName=name, AssumeRolePolicyDocument=json.dumps(trust), Tags=self._tags, **limits
                )
        except AwsError as error:
            owner = self.role_owner(name) if error.aws_code == _EXISTS else None
            if owner is None:
                raise
            if owner != self._owner:  # else an earlier attempt made it, whose answer was lost
                raise ConflictError(f"a snapshot is being built already, by {owner}") from error
        with aws_errors(f"give the role {name} what it needs"):
            for arn in policies:
                iam.attach_role_policy(RoleName=name, PolicyArn=arn)
            iam.create_instance_profile(InstanceProfileName=name, Tags=self._tags)
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)

    def remove_role(self, name: str, policies: Sequence[str]) -> None:
        """Remove a role and its profile, as far as they are there."""
        iam = self._aws.client("iam")
        InstanceProfiles(self._aws).delete(name)
        for arn in policies:
            with suppress(NotFoundError), aws_errors(f"detach a policy of the role {name}"):
                iam.detach_role_policy(RoleName=name, PolicyArn=arn)
        with suppress(NotFoundError), aws_errors(f"delete the role {name}"):
            iam.delete_role(RoleName=name)


def _tags(found: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in found.get("Tags", ())}


def _joined(text: str) -> str:
    """EC2 names the profile `iamInstanceProfile` in one text, and `Instance Profile` in another."""
    return text.lower().replace("instanceprofile", "instance profile")
