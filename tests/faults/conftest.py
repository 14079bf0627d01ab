"""Everything here carries the marker `faults`; processes are forked from a server that has imported torch once."""

import multiprocessing
from multiprocessing.context import ForkServerContext

import pytest

FOLDER = __file__.rpartition("/")[0]


def pytest_collection_modifyitems(items):
    for item in items:
        if str(item.path).startswith(FOLDER):
            item.add_marker(pytest.mark.faults)


@pytest.fixture(scope="session")
def forks() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny"])
    return context
