"""What a reader of the rendered folder needs to know: the order, the placeholders, and how to send it all."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sdctl.clients.cloudformation import MAX_INLINE_TEMPLATE_BYTES
from sdctl.deploy.steps import BucketStep, ObjectsStep, ReleaseStep, ServiceRoleStep, StackStep
from sdctl.offline.files import Sent, chart_name, release_path

_HEAD = """\
# {stack_name}, rendered

What `sdctl deploy` would send for this configuration into an account that has nothing of it yet. Every file
is generated: change `sdctl.yaml` and render again. `plan.json` has the same order for machines,
`sdctl-render.json` the SHA-256 of each file.
"""
_PLACEHOLDERS = """
## Placeholders

What only an account or a stack that is there knows has a name instead. A deploy fills it in.
"""
_ORDER = """
## Order

Each step needs the ones that it names; what does not depend on each other may run at the same time. The
commands do the same by hand, once the placeholders are filled in.
"""
_POLICIES = """
## Permissions

`iam/` holds the least-privilege policies of those who deploy, destroy, submit, copy models and build image
caches. A purpose with several documents needs all of them.
"""


def readme(
    stack_name: str, sent: Sequence[Sent], placeholders: Mapping[str, str], notes: Sequence[str]
) -> bytes:
    """Render the README of the folder."""
    parts = [_HEAD.format(stack_name=stack_name)]
    if notes:
        parts.append("\n" + "".join(f"- {note}\n" for note in notes))
    if placeholders:
        rows = "".join(f"| `{name}` | {meaning} |\n" for name, meaning in placeholders.items())
        parts.append(f"{_PLACEHOLDERS}\n| placeholder | meaning |\n|---|---|\n{rows}")
    parts.append(_ORDER)
    for number, one in enumerate(sent, 1):
        needs = f", after {', '.join(one.step.needs)}" if one.step.needs else ""
        parts.append(f"\n{number}. **{one.step.id}** ({one.step.kind}{needs}): {one.step.detail}\n")
        lines = list(_commands(one))
        if lines:
            parts.append("\n   ```sh\n" + "".join(f"   {line}\n" for line in lines) + "   ```\n")
    parts.append(_POLICIES)
    return "".join(parts).encode()


def plan_json(
    head: Mapping[str, Any], sent: Sequence[Sent], placeholders: Mapping[str, str]
) -> dict[str, Any]:
    """Return the folder's plan: `head`, then the steps in their order, each with its files."""
    steps = [
        {
            "id": one.step.id, "kind": one.step.kind, "action": one.step.action,
            "needs": list(one.step.needs), "detail": one.step.detail, "files": list(one.files),
        }
        for one in sent
    ]  # fmt: skip
    return {**head, "steps": steps, "placeholders": dict(placeholders)}


def _commands(sent: Sent) -> Iterator[str]:
    step = sent.step
    if step.action == "none":
        return
    match step:
        case BucketStep():
            yield f"aws s3api head-bucket --bucket {_word(step.name)} || aws s3 mb {_word(f's3://{step.name}')}"
        case ObjectsStep():
            yield f"aws s3 sync functions {_word(f's3://{step.bucket}/functions')}"
        case ServiceRoleStep():
            yield f"aws iam create-service-linked-role --aws-service-name {step.service}"
        case StackStep():
            path = f"stacks/{step.name}"
            body = f"--template-body file://{path}.yaml"
            if len(sent.files[f"{path}.yaml"]) > MAX_INLINE_TEMPLATE_BYTES:
                copy = _word(f"s3://{step.asset_bucket}/templates/{step.name}.yaml")
                yield f"aws s3 cp {path}.yaml {copy}"
                body = f'--template-url "$(aws s3 presign {copy})"'
            yield f"aws cloudformation create-stack --stack-name {step.name} --capabilities CAPABILITY_IAM \\"
            yield f"  {body} --parameters file://{path}.parameters.json --tags file://{path}.tags.json"
            yield f"aws cloudformation wait stack-create-complete --stack-name {step.name}"
        case ReleaseStep(release=release):
            chart = release.chart
            words = ["helm", "upgrade", "--install", "--create-namespace", "--namespace", release.namespace]
            words += ["--repo", chart.repository] if chart.repository else []
            words += ["--version", chart.version] if chart.version else []
            words += ["--skip-crds"] if release.skip_crds else []
            words += ["--wait", "--values", release_path(release, "values")]
            yield shlex.join([*words, "--", release.name, chart_name(chart)])


def _word(text: str) -> str:
    return shlex.quote(text)
