"""Checks a workflow before it is queued and words the problems as ComfyUI does.

Only what is surely wrong is refused. A class that sketch does not know is accepted, where the real server
answers `missing_node_type`: it stands for a custom node, and hands through what it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sdctl.local.sketch.comfy_schema import NODES, input_config, is_class_name, is_output_class

Graph = dict[str, dict[str, Any]]
Problem = dict[str, Any]
# ComfyUI leaves longer lists out of its error bodies.
_MAX_LIST_IN_ERROR = 20
_RAISED = (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError)


@dataclass
class Verdict:
    """What validation found: the output nodes that can run, or why none can."""

    error: Problem | None
    outputs: list[str] = field(default_factory=list)
    node_errors: dict[str, Any] = field(default_factory=dict)


def simple_error(kind: str, message: str, details: str = "", **extra: Any) -> Problem:
    """Return the `error` object of a refused prompt."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def validate(graph: Graph, checkpoints: list[str], has_input: Callable[[str], bool]) -> Verdict:
    """Check a workflow in API format; numbers given as text are converted in place, as the real server does.

    Args:
        graph: node id to node.
        checkpoints: the names that a checkpoint loader may ask for.
        has_input: says whether an input image of a name exists.

    Raises:
        AttributeError, TypeError: a node is no object (a workflow in the editor's format has such).
    """
    for node_id, node in graph.items():
        if not isinstance(node, dict):
            raise TypeError(f"node {node_id} is not an object")
        class_type, title = node.get("class_type"), _title(node)
        if not is_class_name(class_type):
            name = title or f"ID #{node_id}"
            message = f"Node '{name}' not found. The custom node may not be installed."
            if class_type is None:
                reason = "The workflow may be corrupted or a custom node is missing."
                message = f"Node '{name}' has no class_type. {reason}"
            facts = {"node_id": node_id, "class_type": class_type, "node_title": title}
            return Verdict(simple_error("missing_node_type", message, f"Node ID '#{node_id}'", **facts))
    outputs = [node_id for node_id, node in graph.items() if is_output_class(node["class_type"])]
    if not outputs:
        return Verdict(simple_error("prompt_no_outputs", "Prompt has no outputs"))
    return _Check(graph, checkpoints, has_input).verdict(outputs)


def _title(node: dict[str, Any]) -> str | None:
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return title if isinstance(title, str) else None


class _Check:
    def __init__(self, graph: Graph, checkpoints: list[str], has_input: Callable[[str], bool]) -> None:
        self._graph, self._checkpoints, self._has_input = graph, checkpoints, has_input
        self._seen: dict[str, tuple[bool, list[Problem]]] = {}

    def verdict(self, outputs: list[str]) -> Verdict:
        good: list[str] = []
        texts: list[str] = []
        node_errors: dict[str, Any] = {}
        for output in outputs:
            self._seen = {}
            try:
                valid, problems = self._node(output, ())
            except _RAISED as error:
                valid, problems = (
                    False,
                    [_raised("exception_during_validation", "Exception when validating node", error)],
                )
                self._seen[output] = (valid, problems)
            if valid:
                good.append(output)
                continue
            texts += [f"{problem['message']}: {problem['details']}" for problem in problems]
            for node_id, (fine, found) in self._seen.items():
                if not fine and found:
                    class_type = self._graph[node_id]["class_type"]
                    row = {"errors": found, "dependent_outputs": [], "class_type": class_type}
                    node_errors.setdefault(node_id, row)["dependent_outputs"].append(output)
        refusal = None
        if not good:
            message = "Prompt outputs failed validation"
            refusal = simple_error("prompt_outputs_failed_validation", message, "\n".join(texts))
        return Verdict(refusal, good, node_errors)

    def _node(self, node_id: str, path: tuple[str, ...]) -> tuple[bool, list[Problem]]:
        """Check a node and all before it; what it depends on is recorded in `_seen`."""
        if node_id in self._seen:
            return self._seen[node_id]
        node = self._graph[node_id]
        inputs, class_type = node["inputs"], node["class_type"]
        if not isinstance(inputs, dict):
            raise TypeError(f"the inputs of a node are an object, not {type(inputs).__name__}")
        known = NODES.get(class_type)
        valid = True
        problems: list[Problem] = []
        names = dict.fromkeys([*(known.required if known else ()), *(inputs if not known else ())])
        for name in names:
            config = known.required[name] if known else ["*"]
            config = input_config(class_type, config, self._checkpoints, [])
            if name not in inputs:
                problems.append(
                    _problem("required_input_missing", "Required input is missing", name, input_name=name)
                )
            elif isinstance(inputs[name], list) and (known is not None or self._looks_linked(inputs[name])):
                found = self._link(node_id, name, config, inputs[name], path)
                valid = valid and found is not False
                problems += found if isinstance(found, list) else []
            elif known is not None:
                problem = self._value(class_type, name, config, inputs)
                problems += [problem] if problem else []
        self._seen[node_id] = (valid and not problems, problems)
        return self._seen[node_id]

    def _looks_linked(self, value: list[Any]) -> bool:
        return len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int

    def _link(
        self, node_id: str, name: str, config: list[Any], link: list[Any], path: tuple[str, ...]
    ) -> list[Problem] | bool:
        """Check one link: its problems, or False where the fault lies further up and is recorded there."""
        facts: dict[str, Any] = {"input_name": name, "input_config": config}
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            return [_problem("bad_linked_input", message, name, **facts, received_value=link)]
        source, slot = link
        before = NODES.get(self._graph[source]["class_type"])
        expected = config[0] if isinstance(config[0], str) else "COMBO"
        if before is not None and before.output:
            received = before.output[slot]
            if expected not in ("*", received, "COMBO"):
                details = f"{name}, received_type({received}) mismatch input_type({expected})"
                message = "Return type mismatch between linked nodes"
                return [
                    _problem(
                        "return_type_mismatch",
                        message,
                        details,
                        **facts,
                        received_type=received,
                        linked_node=link,
                    )
                ]
        if source in path or source == node_id:
            details = " -> ".join([*path, node_id, source])
            return [
                _problem("dependency_cycle", "Dependency cycle detected", details, **facts, linked_node=link)
            ]
        try:
            return self._node(source, (*path, node_id))[0] or False
        except _RAISED as error:
            message = "Exception when validating inner node"
            problem = _raised("exception_during_inner_validation", message, error, **facts, linked_node=link)
            self._seen[source] = (False, [problem])
            return False

    def _value(self, class_type: str, name: str, config: list[Any], inputs: dict[str, Any]) -> Problem | None:
        """Check and convert one value that is no link."""
        value, kind = inputs[name], config[0]
        facts: dict[str, Any] = {"input_name": name, "input_config": config}
        if class_type.startswith("LoadImage") and name == "image":
            if isinstance(value, str) and self._has_input(value):
                return None
            details = f"image - Invalid image file: {value}"
            return _problem(
                "custom_validation_failed", "Custom validation failed for node", details, input_name=name
            )
        if isinstance(kind, list):
            if value in kind:
                return None
            short = len(kind) <= _MAX_LIST_IN_ERROR
            details = (
                f"{name}: {value!r} not in {kind}"
                if short
                else f"{name}: {value!r} not in (list of length {len(kind)})"
            )
            facts["input_config"] = config if short else None
            return _problem("value_not_in_list", "Value not in list", details, **facts, received_value=value)
        converters: dict[str, Callable[[Any], Any]] = {
            "INT": int,
            "FLOAT": float,
            "STRING": str,
            "BOOLEAN": bool,
        }
        if kind not in converters:
            return None
        try:
            value = inputs[name] = converters[kind](value)
        except (TypeError, ValueError, OverflowError) as error:
            message = f"Failed to convert an input value to a {kind} value"
            details = f"{name}, {value}, {error}"
            return _problem(
                "invalid_input_type",
                message,
                details,
                **facts,
                received_value=value,
                exception_message=str(error),
            )
        return _out_of_bounds(name, value, config, facts)


def _out_of_bounds(name: str, value: Any, config: list[Any], facts: dict[str, Any]) -> Problem | None:
    bounds = config[1] if len(config) > 1 else {}
    if "min" in bounds and value < bounds["min"]:
        message = f"Value {value} smaller than min of {bounds['min']}"
        return _problem("value_smaller_than_min", message, name, **facts, received_value=value)
    if "max" in bounds and value > bounds["max"]:
        message = f"Value {value} bigger than max of {bounds['max']}"
        return _problem("value_bigger_than_max", message, name, **facts, received_value=value)
    return None


def _problem(kind: str, message: str, details: str, **extra: Any) -> Problem:
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def _raised(kind: str, message: str, error: BaseException, **extra: Any) -> Problem:
    about = {"exception_type": type(error).__name__, "traceback": []}
    if extra:
        about["exception_message"] = str(error)
    return _problem(kind, message, str(error), **extra, **about)
