"""The outputs that a deployment has as a whole, from those of its stacks; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sdctl.render.runtime import runtime_stack_prefix
from sdctl.render.stacks import logical_id

# Outputs of a runtime's stack that the deployment's outputs have too, each with the runtime's name behind.
_RUNTIME_OUTPUTS: Final = ("QueueUrl", "DeadLetterQueueUrl")


def joined_outputs(stack_name: str, outputs: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return a deployment's outputs: the front's, and each runtime's queues as `QueueUrl<Logical>`.

    Args:
        stack_name: the deployment's name.
        outputs: of its stacks, by the stacks' names.
    """
    prefix = runtime_stack_prefix(stack_name)
    joined = dict(outputs.get(f"{stack_name}Stack", {}))
    for name in sorted(outputs):
        if name.startswith(prefix):
            logical = logical_id(name.removeprefix(prefix))
            joined |= {
                f"{key}{logical}": outputs[name][key] for key in _RUNTIME_OUTPUTS if key in outputs[name]
            }
    return joined
