"""The world that the tests of one file share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.aws_world import World, aws_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with aws_world(tmp_path_factory.mktemp("world")) as world:
        yield world
