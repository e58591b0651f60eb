"""Credentials, region, service-linked roles, permissions, helm: each rule's pass, warn and fail."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdctl.clients.iam import Denied, Identity
from sdctl.doctor.check import Check, console, has_failed
from sdctl.doctor.facts import NOT_READ, AwsFacts
from sdctl.doctor.needs import SERVICE_ROLES
from sdctl.doctor.rules import judge_aws
from sdctl.reads import NO_ANSWER, Unknown
from support.doctor import (
    ACCOUNT,
    DENIED,
    HELM,
    REGION,
    ROLE,
    TODAY,
    config,
    healthy,
    judged,
    needs_of,
    provisioner,
    runtime,
)


def outcome(check: Check) -> tuple[str, str]:
    return check.result, check.found


def test_in_a_healthy_account_every_check_passes_and_none_has_a_fix() -> None:
    checks = judged()
    assert {check.id for check in checks.values() if check.result != "pass"} == set()
    assert all(check.why and not check.fix for check in checks.values())
    assert not has_failed(checks.values())


def test_without_credentials_that_fails_and_the_rest_says_that_it_was_not_checked() -> None:
    nobody = AwsFacts(REGION, "aws", TODAY, identity=Unknown("no AWS credentials were found"))
    checks = judged(facts=nobody)
    assert outcome(checks["credentials"]) == ("fail", "no AWS credentials were found")
    assert "--profile" in checks["credentials"].fix
    offline = {"helm", "region", "credentials", "kubernetes-version", "components"}
    assert {check.id for check in checks.values() if NOT_READ.reason not in check.found} == offline
    assert {checks[name].result for name in checks.keys() - offline} == {"warn"}
    assert checks["kubernetes-version"].result == "pass"


def test_the_same_checks_are_made_with_and_without_credentials() -> None:
    nobody = AwsFacts(REGION, "aws", TODAY, identity=Unknown("no AWS credentials were found"))
    assert judged(facts=nobody).keys() == judged().keys()


def test_where_aws_cannot_be_reached_the_network_is_named() -> None:
    for code in (NO_ANSWER, "EndpointConnectionError"):
        facts = replace(healthy(), identity=Unknown("no answer", code))
        assert "proxy" in judged(facts=facts)["credentials"].fix


def test_a_key_that_aws_does_not_know_may_just_be_in_a_region_that_is_not_enabled() -> None:
    facts = replace(healthy(), identity=Unknown("invalid", "InvalidClientTokenId"))
    fix = judged(facts=facts)["credentials"].fix
    assert "--profile" in fix
    assert "enable-region" in fix


def test_without_a_region_only_the_machine_is_judged() -> None:
    wanted = config()
    checks = judge_aws(wanted, needs_of(wanted), HELM, None, today=TODAY)
    assert [(check.id, check.result) for check in checks] == [("helm", "pass"), ("region", "fail")]
    assert "-R" in checks[1].fix


def test_a_region_that_nobody_knows_is_a_warning_with_the_nearest_name() -> None:
    check = judged(facts=healthy(region="us-west2"))["region"]
    assert check.result == "warn"
    assert '"us-west-2"' in check.found


@pytest.mark.parametrize(
    ("identity", "result", "said"),
    [
        (Identity(ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/me", f"arn:aws:iam::{ACCOUNT}:user/me", "user"),
         "pass", "user/me"),
        (Identity(ACCOUNT, "arn:aws:sts::1:federated-user/x", "arn:aws:sts::1:federated-user/x", "federated"),
         "fail", "federated"),
        (Identity(ACCOUNT, f"arn:aws:iam::{ACCOUNT}:root", f"arn:aws:iam::{ACCOUNT}:root", "root"),
         "warn", "root user"),
        (replace(ROLE, is_path_known=False), "warn", "path"),
        (ROLE, "pass", f"role arn:aws:iam::{ACCOUNT}:role/Admin"),
    ],
)  # fmt: skip
def test_credentials_say_who_they_are(identity: Identity, result: str, said: str) -> None:
    check = judged(facts=healthy(identity=identity))["credentials"]
    assert check.result == result
    assert said in check.found


def test_a_service_role_that_is_not_there_yet_is_made_and_says_by_whom() -> None:
    roles = dict.fromkeys(SERVICE_ROLES.values(), False)
    checks = judged(facts=healthy(service_roles=roles))
    for name, maker in (("eks", "EKS"), ("eks-nodegroup", "EKS"), ("spot", "deploy")):
        check = checks[f"service-role-{name}"]
        assert check.result == "pass"
        assert check.found.endswith(f"does not exist yet; {maker} makes it")


def test_the_spot_role_is_no_matter_where_nothing_runs_on_spot() -> None:
    wanted = config(modelsRuntime=[runtime(provisioner(capacityType={"onDemand": True, "spot": False}))])
    checks = judged(wanted)
    assert {"service-role-spot", "spot-price", "quota-g-spot"}.isdisjoint(checks)


def test_a_service_role_that_may_not_be_read_is_not_checked() -> None:
    roles = dict.fromkeys(SERVICE_ROLES.values(), DENIED)
    check = judged(facts=healthy(service_roles=roles))["service-role-eks"]
    assert check.result == "warn"
    assert check.found == f"not checked: {DENIED.reason}"
    assert "allow" in check.fix


def test_denied_actions_are_listed_up_to_a_number_and_forbidden_ones_marked() -> None:
    denied = (Denied("eks:CreateCluster", is_explicit=True), *(Denied(f"ec2:Make{n}") for n in range(9)))
    check = judged(facts=healthy(denied=denied))["permissions"]
    assert check.result == "fail"
    assert check.found.startswith("10 actions are not allowed: eks:CreateCluster (forbidden), ec2:Make0, ")
    assert check.found.endswith(" and 2 more")
    assert "sdctl iam policy --for deploy" in check.fix


def test_permissions_that_cannot_be_simulated_are_a_warning() -> None:
    assert judged(facts=healthy(denied=DENIED))["permissions"].result == "warn"


def test_in_china_one_is_told_of_what_lies_outside() -> None:
    check = judged(facts=healthy(partition="aws-cn"))["china"]
    assert check.result == "warn"
    assert "--via sns" in check.fix
    assert "china" not in judged()


def test_console_addresses_are_those_of_the_partition() -> None:
    assert console("aws", "us-west-2", "x") == "https://us-west-2.console.aws.amazon.com/x"
    assert console("aws-cn", "cn-north-1", "x") == "https://cn-north-1.console.amazonaws.cn/x"


@pytest.mark.parametrize(
    ("changes", "result", "said"),
    [
        ({}, "pass", "helm 4.3.1"),
        ({"helm_path": None}, "fail", "not installed"),
        ({"helm_version": Unknown("it crashed")}, "fail", "it crashed"),
        ({"helm_version": "3.9.4"}, "fail", "older than"),
        ({"helm_version": "3.19.0"}, "warn", "not made for Kubernetes 1.36"),
        ({"helm_version": "4.9.0"}, "pass", "helm 4.9.0"),
        ({"helm_version": "5.0.0"}, "fail", "helm 4 is the newest"),
        ({"runs_programs": False, "platform": "windows-amd64"}, "fail", "windows-amd64"),
    ],
)
def test_helm_is_judged_by_its_version(changes: dict[str, Any], result: str, said: str) -> None:
    check = judged(tools=replace(HELM, **changes))["helm"]
    assert check.result == result
    assert said in check.found


def test_helm_3_is_a_warning_since_its_security_fixes_ended() -> None:
    wanted = config(kubernetesVersion="1.35")
    check = judged(wanted, healthy(wanted), replace(HELM, helm_version="3.20.1"))["helm"]
    assert check.result == "warn"
    assert "security" in check.found


@pytest.mark.parametrize(("can_install", "fix"), [(True, "sdctl doctor --fix"), (False, "https://helm.sh/")])
def test_a_missing_helm_is_installed_where_one_with_a_known_hash_exists(can_install: bool, fix: str) -> None:
    assert fix in judged(tools=replace(HELM, helm_path=None, can_install=can_install))["helm"].fix


def test_a_helm_that_does_not_run_names_its_path() -> None:
    tools = replace(HELM, helm_path=Path("/x/helm"), helm_version=Unknown("no"))
    assert "/x/helm" in judged(tools=tools)["helm"].found


OPTIONAL = [one.name for one in fields(AwsFacts) if one.name not in ("region", "partition", "today")]


def without(facts: AwsFacts, names: Iterable[str]) -> AwsFacts:
    """Make facts unknown; of a table, each of its entries."""
    changes: dict[str, Any] = {}
    for name in names:
        value = getattr(facts, name)
        tables = ("quotas", "stacks", "buckets", "service_roles", "snapshots")
        changes[name] = () if name == "known_regions" else DENIED
        if name in tables:
            changes[name] = dict.fromkeys(value, DENIED)
    return replace(facts, **changes)


@given(st.sets(st.sampled_from(OPTIONAL)), st.sampled_from(["single", "perZone", "none"]))
def test_no_combination_of_unknown_facts_stops_the_rules_or_makes_a_check_vanish(
    names: set[str], nat_mode: str
) -> None:
    wanted = config(
        network={"natMode": nat_mode},
        modelsRuntime=[runtime({"karpenter": {"nodeTemplate": {"dataVolume": {"snapshotID": "snap-1"}}}})],
    )
    facts = healthy(wanted, placement_scores={"usw2-az1": 9})
    checks = judged(wanted, without(facts, names))
    assert checks.keys() == judged(wanted, facts).keys()
    assert all(bool(check.fix) == (check.result != "pass") for check in checks.values())
