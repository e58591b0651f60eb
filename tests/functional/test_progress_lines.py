"""What a deploy says while it is at work, where no terminal shows it live."""

from __future__ import annotations

from sdctl.cli.progress import Progress
from sdctl.deploy.steps import Event, Plan, StackStep


def test_every_resource_has_one_line_with_how_long_its_stack_is_at_it() -> None:
    lines: list[str] = []
    step = StackStep(
        id="network", action="create", name="sdoneks-network", detail="sdoneks-network", minutes=3
    )
    shown = Progress(Plan((step,)), print_line=lines.append)
    for event in (
        Event("network", "started"),
        Event("network", "CREATE_IN_PROGRESS", "Vpc", "AWS::EC2::VPC"),
        Event("network", "CREATE_COMPLETE", "Vpc", "AWS::EC2::VPC"),
        Event("network", "CREATE_IN_PROGRESS", "NatA", "AWS::EC2::NatGateway"),
        Event("network", "CREATE_FAILED", "NatA", "AWS::EC2::NatGateway", "no address is left"),
    ):
        shown.report(event)
    assert lines == [
        "network: create sdoneks-network (about 3 min)",
        "  network: Vpc (AWS::EC2::VPC) CREATE_COMPLETE after 0.0 s",
        "  network: NatA (AWS::EC2::NatGateway) CREATE_FAILED: no address is left",
    ]
