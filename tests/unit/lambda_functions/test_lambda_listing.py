"""The list's merge of several runtimes: any filter, any page size, bounded work, nothing twice or missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdctl import task_record
from sdctl_api import listing
from sdctl_api.exchange import ApiError
from sdctl_api.listing import EXTRA_QUERIES, Page, decode_cursor, encode_cursor, list_page

RUNTIMES = ("a", "b", "c")


class Index:
    """The index `by_runtime` in memory; a query reads `page_items` rows at most, as DynamoDB limits its."""

    def __init__(self, rows: list[tuple[str, str]], page_items: int = 10**9) -> None:
        self.items = [
            {"id": f"t{n}", "runtime": runtime, "status": status, "listing": f"{n:013d}#t{n}"}
            for n, (runtime, status) in enumerate(rows)
        ]
        self.page_items = page_items
        self.queries = 0

    def query(self, call: Mapping[str, Any]) -> Mapping[str, Any]:
        self.queries += 1
        values = {key: value["S"] for key, value in call["ExpressionAttributeValues"].items()}
        assert call["ScanIndexForward"] is False
        matching = [
            item
            for item in reversed(self.items)
            if item["runtime"] == values[":runtime"] and item["listing"] < values[":before"]
        ]
        size = min(call["Limit"], self.page_items)
        read = matching[:size]
        shown = [item for item in read if item["status"] == values.get(":status", item["status"])]
        answer: dict[str, Any] = {"Items": [_typed(item) for item in shown]}
        if len(read) == size and read:
            answer["LastEvaluatedKey"] = _typed(read[-1])
        return answer


def _typed(item: Mapping[str, Any]) -> dict[str, Any]:
    return {key: task_record.to_attribute(value) for key, value in item.items()}


def read_all(index: Index, status: str | None, limit: int) -> list[str]:
    ids: list[str] = []
    page = Page(RUNTIMES, status, limit)
    for _ in range(10_000):
        before = index.queries
        rows, cursor = list_page(index.query, page)
        assert len(rows) <= limit
        assert index.queries - before <= len(RUNTIMES) + EXTRA_QUERIES
        ids += [row.id for row in rows]
        if cursor is None:
            return ids
        position = decode_cursor(cursor)
        assert position is not None
        assert position < page.before
        page = Page(RUNTIMES, status, limit, position)
    raise AssertionError("the cursor never ends")


@given(
    rows=st.lists(
        st.tuples(st.sampled_from(RUNTIMES), st.sampled_from(["failed", "completed"])), max_size=60
    ),
    status=st.sampled_from([None, "failed"]),
    limit=st.integers(1, 8),
    page_items=st.sampled_from([1, 2, 5, 1000]),
)
def test_pages_hold_every_matching_task_once_and_newest_first(
    rows: list[tuple[str, str]], status: str | None, limit: int, page_items: int
) -> None:
    index = Index(rows, page_items)
    wanted = [item["id"] for item in reversed(index.items) if status in (None, item["status"])]
    assert read_all(index, status, limit) == wanted


def test_a_rare_status_costs_a_bounded_number_of_queries_and_hands_out_a_cursor() -> None:
    index = Index([("a", "failed")] + [("a", "completed")] * 20_000)
    rows, cursor = list_page(index.query, Page(("a",), "failed", 20))
    assert (rows, index.queries) == ([], 1 + EXTRA_QUERIES)
    assert cursor is not None
    assert read_all(index, "failed", 20) == ["t0"]


def test_no_runtime_means_no_task() -> None:
    assert list_page(Index([]).query, Page(())) == ([], None)


def test_a_full_last_page_is_known_to_be_the_last() -> None:
    assert list_page(Index([("a", "failed")] * 5).query, Page(RUNTIMES, None, 5))[1] is None


@given(st.text(max_size=40))
def test_a_forged_cursor_is_never_a_position(text: str) -> None:
    position = decode_cursor(text)
    assert position is None or listing._LISTING.fullmatch(position)


def test_a_cursor_comes_back() -> None:
    assert decode_cursor(encode_cursor("1700000000000#t-1")) == "1700000000000#t-1"


def test_all_bad_parameters_are_reported() -> None:
    query = {"limit": "-1", "status": "x", "runtime": "y", "cursor": "z", "page": "1"}
    with pytest.raises(ApiError) as caught:
        listing.parse_page(query, {})
    assert {problem.path for problem in caught.value.problems} == set(query)
