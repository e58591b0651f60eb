"""What is looked at before a build: what EC2 would refuse after half an hour, or without a reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from sdctl.clients.aws import Aws
from sdctl.clients.kms import Kms
from sdctl.errors import AwsError, ConfigError, UsageError


def check_regions(aws: Aws, regions: Iterable[str]) -> None:
    """Refuse regions that no copy can be made in.

    Raises:
        UsageError: one is none of this partition, or the session's own.
    """
    known = aws.regions("ec2")
    for region in regions:
        is_known = region in known and Aws(replace(aws.access, region=region)).partition == aws.partition
        if not is_known or region == aws.region:
            raise UsageError(f"--copy-to {region}: not another region of the partition {aws.partition}")


def check_zones(aws: Aws, zones: Iterable[str]) -> None:
    """Refuse zones that fast restore cannot be enabled in: other regions', and Local Zones.

    Raises:
        UsageError: one is no zone of the session's region.
    """
    for zone in zones:
        if not re.fullmatch(rf"{re.escape(aws.region)}[a-z]", zone):
            raise UsageError(f"--fast-restore {zone}: not a zone of {aws.region}", hint=f"as {aws.region}a")


def check_key(aws: Aws, name: str, nodes_key: str, report: Callable[[str], None]) -> None:
    """Look whether a key can encrypt a volume: an instance with one that cannot ends as it begins.

    Args:
        aws: the session.
        name: the key's ARN, id or alias.
        nodes_key: the ARN of the key that the nodes' volumes have, or empty.
        report: told where nodes may not use it, or where it is not known.

    Raises:
        ConfigError: it cannot.
    """
    try:
        key = Kms(aws).described(name)
    except AwsError as error:
        report(f"whether {name} can encrypt the volume is not known: {error.message}")
        return
    if key is None:
        raise ConfigError(f"there is no key {name} in {aws.region}", hint="name another one with --kms-key")
    if not key.can_encrypt_volumes:
        raise ConfigError(
            f"{name} cannot encrypt a volume: it is {key.state} and {key.spec}",
            hint="it must be Enabled and SYMMETRIC_DEFAULT; --kms-key takes another",
        )
    if key.arn != nodes_key:
        report(f"nodes can start from it only where Karpenter's role may use {key.arn}: set it as kmsKeyArn")
