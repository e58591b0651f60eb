"""The evaluator that the proofs rest on: it allows what IAM allows, and nothing for want of a value."""

from __future__ import annotations

from typing import Any

import pytest

from support.iam_evaluator import Request, allows, matches


def document(**statement: Any) -> dict[str, Any]:
    plain = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::b-?/*"]}
    return {"Version": "2012-10-17", "Statement": [plain | statement]}


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [("a*", "a/b:c", True), ("a?c", "abc", True), ("a?c", "ac", False), ("a.c", "abc", False),
     ("*", "", True), ("a[b]", "ab", False), ("arn:x:*:y", "arn:x:1:2:y", True), ("a", "A", False)],
)  # fmt: skip
def test_wildcards_are_iams_and_no_others(pattern: str, text: str, expected: bool) -> None:
    assert matches(pattern, text) is expected


@pytest.mark.parametrize(
    ("action", "resource", "expected"),
    [("s3:GetObject", "arn:aws:s3:::b-1/x/y", True), ("s3:getobject", "arn:aws:s3:::b-1/x", True),
     ("s3:GetObject", "arn:aws:s3:::b-12/x", False), ("s3:GetObjectAcl", "arn:aws:s3:::b-1/x", False),
     ("s3:GetObject", "*", False)],
)  # fmt: skip
def test_action_and_resource_must_both_fit(action: str, resource: str, expected: bool) -> None:
    assert allows(document(), Request(action, resource)) is expected


def test_a_condition_holds_only_for_a_value_that_is_there() -> None:
    arn = "arn:aws:s3:::b-1/x"
    tagged = document(Condition={"StringEquals": {"aws:ResourceTag/t": ["mine", "ours"]}})
    assert allows(tagged, Request("s3:GetObject", arn, {"aws:ResourceTag/t": ("ours",)}))
    assert not allows(tagged, Request("s3:GetObject", arn, {"aws:ResourceTag/t": ("theirs",)}))
    assert not allows(tagged, Request("s3:GetObject", arn))


def test_every_condition_must_hold_and_one_value_of_each_is_enough() -> None:
    both = document(
        Condition={"StringEquals": {"a": "1"}, "ArnLike": {"b": ["arn:aws:x:*:y", "arn:aws:z:*"]}}
    )
    arn = "arn:aws:s3:::b-1/x"
    assert allows(both, Request("s3:GetObject", arn, {"a": ("1",), "b": ("arn:aws:z:1",)}))
    assert not allows(both, Request("s3:GetObject", arn, {"a": ("1",), "b": ("arn:aws:q:1",)}))


def test_an_operator_that_it_does_not_know_is_an_error() -> None:
    odd = document(Condition={"NumericLessThan": {"a": "1"}})
    with pytest.raises(KeyError):
        allows(odd, Request("s3:GetObject", "arn:aws:s3:::b-1/x", {"a": ("0",)}))
