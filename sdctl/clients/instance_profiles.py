"""IAM's instance profiles that Karpenter makes for its node classes, and their end."""

from __future__ import annotations

import re
from contextlib import suppress

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import NotFoundError


class InstanceProfiles:
    """The calls that a teardown makes, typed."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; the client is made on first use."""
        self._aws = aws

    def of_cluster(self, cluster: str) -> tuple[str, ...]:
        """Return the names of the profiles that Karpenter made for a cluster of this region.

        They lie below a path of their own, in older versions they are named after the cluster:
        https://github.com/aws/karpenter-provider-aws/blob/main/pkg/providers/instanceprofile/instanceprofile.go
        """
        path = f"/karpenter/{self._aws.region}/{cluster}/"
        older = re.compile(rf"{re.escape(cluster)}_\d+")
        with aws_errors("list the instance profiles"):
            pages = self._aws.client("iam").get_paginator("list_instance_profiles").paginate()
            found = [one for page in pages for one in page["InstanceProfiles"]]
        return tuple(
            one["InstanceProfileName"]
            for one in found
            if one["Path"].startswith(path) or older.fullmatch(one["InstanceProfileName"])
        )

    def delete(self, name: str) -> None:
        """Take the role out of a profile and delete it; one that is gone is deleted already."""
        iam = self._aws.client("iam")
        with suppress(NotFoundError), aws_errors(f"delete the instance profile {name}"):
            profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
            for role in profile["Roles"]:
                iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=role["RoleName"])
            iam.delete_instance_profile(InstanceProfileName=name)
