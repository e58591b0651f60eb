"""The emulator, once for all tests of the functions, and a fresh front for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from sdctl.deploy.bundle import Bundle, build_bundles
from support.lambda_front import Front, Worker, emulator, environment


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


@pytest.fixture(scope="session")
def sandboxes(
    lambda_emulator: int, bundles: Mapping[str, Bundle], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Worker]]:
    """Keep one warm sandbox a function, since a cold start costs more than most tests."""
    folder = tmp_path_factory.mktemp("sandboxes")
    workers = {name: Worker(bundle, folder, environment(lambda_emulator)) for name, bundle in bundles.items()}
    yield workers
    for worker in workers.values():
        worker.close()


@pytest.fixture
def api(front: Front, sandboxes: Mapping[str, Worker]) -> Worker:
    """Return the API's function, working for this test's front."""
    return sandboxes["sdctl_api"].settle_into(front.variables)


@pytest.fixture
def dead_letters(front: Front, sandboxes: Mapping[str, Worker]) -> Worker:
    """Return the function of the dead letters, working for this test's front."""
    return sandboxes["sdctl_dead_letters"].settle_into(front.variables)


@pytest.fixture
def sweep(front: Front, sandboxes: Mapping[str, Worker]) -> Worker:
    """Return the sweep, working for this test's front."""
    return sandboxes["sdctl_sweep"].settle_into(front.variables)
