"""The emulator, once for all tests of the functions, and a fresh front for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from support.lambda_front import Front, Worker, emulator

from sdctl.deploy.bundle import Bundle, build_bundles


@pytest.fixture(scope="session")
def lambda_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run the emulator; its port."""
    with emulator(tmp_path_factory.mktemp("emulator")) as port:
        yield port


@pytest.fixture(scope="session")
def bundles() -> Mapping[str, Bundle]:
    """Build the zips once."""
    return build_bundles()


@pytest.fixture
def front(lambda_emulator: int, bundles: Mapping[str, Bundle], tmp_path: Path) -> Iterator[Front]:
    """Make a table, topics, queues and buckets of this test alone."""
    made = Front(lambda_emulator, tmp_path, bundles)
    yield made
    made.close()


@pytest.fixture
def api(front: Front) -> Worker:
    """Start the API's function."""
    return front.worker("sdctl_api")
