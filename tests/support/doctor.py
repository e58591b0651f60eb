"""A healthy account, machine and configuration, from which tests take single things away."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from sdctl.clients.ec2 import RunningInstance, Zone
from sdctl.clients.iam import Identity
from sdctl.config.model import Config
from sdctl.doctor.check import Check
from sdctl.doctor.facts import AwsFacts, LocalFacts, ToolFacts
from sdctl.doctor.needs import SERVICE_ROLES, RuntimeNeed, bucket_names, runtime_needs
from sdctl.doctor.rules import judge_aws, judge_local
from sdctl.reads import Unknown
from sdctl.versions import EKS_CALENDAR

ACCOUNT = "123456789012"
REGION = "us-west-2"
TODAY = date(2026, 11, 22)
MODEL = "v1-5-pruned-emaonly.safetensors"
DENIED = Unknown("could not look: not authorized (AccessDenied)", "AccessDenied")
TYPES = ("g5.2xlarge", "g6.2xlarge")
SYSTEM = "m7g.large"


def config(**document: Any) -> Config:
    """Build a configuration from its file's keys."""
    return Config.model_validate(document)


def runtime(extra_values: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """Build a runtime as the file has it."""
    return {
        "name": "sdruntime", "type": "sdwebui", "modelFilename": MODEL, "extraValues": extra_values or {},
    } | keys  # fmt: skip


def provisioner(**values: Any) -> dict[str, Any]:
    """Build the extra values of a runtime's nodes."""
    return {"karpenter": {"provisioner": values}}


ROLE = Identity(
    ACCOUNT, f"arn:aws:sts::{ACCOUNT}:assumed-role/Admin/me", f"arn:aws:iam::{ACCOUNT}:role/Admin", "role"
)


def healthy(wanted: Config | None = None, **changes: Any) -> AwsFacts:
    """Return the facts of an account in which a configuration's deployment would work."""
    wanted = wanted or config()
    zones = tuple(Zone(f"{REGION}{letter}", f"usw2-az{index}") for index, letter in enumerate("abcd", 1))
    everywhere = frozenset(zone.name for zone in zones)
    buckets = bucket_names(wanted, ACCOUNT, REGION)
    facts = AwsFacts(
        region=REGION,
        partition="aws",
        today=TODAY,
        known_regions=("us-west-2", "eu-central-1"),
        identity=ROLE,
        zones=zones,
        subnets=(),
        vcpus={"g5.2xlarge": 8, "g6.2xlarge": 8, "g6.xlarge": 4, "p4d.24xlarge": 96, SYSTEM: 2},
        offers=dict.fromkeys(("g5.2xlarge", "g6.2xlarge", "g6.xlarge", "p4d.24xlarge", SYSTEM), everywhere),
        running=(),
        quotas={
            "L-DB2E81BA": 200.0, "L-3819A6DF": 200.0, "L-417A185B": 192.0, "L-7212CCBC": 192.0,
            "L-1216C47A": 64.0, "L-34B43A08": 64.0, "L-F678F1CE": 5.0, "L-0263D0A3": 5.0, "L-FE5A380F": 5.0,
            "L-DC2B2D3D": 10_000.0,
        },
        vpc_count=1,
        address_count=0,
        nat_gateways={},
        bucket_count=12,
        concurrent_executions=1000,
        spot_prices={(name, f"{REGION}a"): 0.5 for name in TYPES},
        calendar=EKS_CALENDAR,
        cluster=None,
        stacks={"sdoneksStack": None, "sdoneks-network": None, "sdoneks-cluster": None},
        buckets={buckets[0]: None, buckets[1]: REGION},
        log_groups=(),
        service_roles=dict.fromkeys(SERVICE_ROLES.values(), True),
        model_files=frozenset({f"Stable-diffusion/{MODEL}"}),
        images=frozenset({"1.34", "1.35", "1.36"}),
        agent_image=True,
        denied=(),
    )  # fmt: skip
    return replace(facts, **changes)


HELM = ToolFacts(Path("/opt/helm"), "4.3.1", "linux-amd64", can_install=True)


def needs_of(wanted: Config) -> tuple[RuntimeNeed, ...]:
    """Return a configuration's needs, with no chart's values below them."""
    return runtime_needs(wanted, {})


def judged(
    wanted: Config | None = None, facts: AwsFacts | None = None, tools: ToolFacts = HELM
) -> dict[str, Check]:
    """Judge a configuration in an account; checks by id."""
    wanted = wanted or config()
    facts = facts or healthy(wanted)
    checks = judge_aws(wanted, needs_of(wanted), tools, facts, today=facts.today, is_simulated=True)
    by_id = {check.id: check for check in checks}
    assert len(by_id) == len(checks), "an id stands twice"
    return by_id


def gpu_node(vcpus: int, capacity: str = "on-demand", **tags: str) -> RunningInstance:
    """Return a running GPU instance."""
    return RunningInstance("g5.2xlarge", capacity, vcpus, tags)


READY_MACHINE = LocalFacts(
    system="Linux",
    packages={"ministack": ("==1.5.33", "1.5.33"), "pillow": (">=11", "12.0")},
    home=Path("/home/me/.local/state/sdctl"),
    is_home_writable=True,
    free_bytes=50 * 1024**3,
    can_listen=True,
    open_files=1024,
)


def judged_locally(**changes: Any) -> dict[str, Check]:
    """Judge this machine with something changed; checks by id."""
    return {check.id: check for check in judge_local(replace(READY_MACHINE, **changes))}
