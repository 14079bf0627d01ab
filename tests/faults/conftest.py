"""Everything here carries the marker `faults`; processes are forked from a server that has imported torch once."""

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from unittest.mock import patch

import pytest

FOLDER = __file__.rpartition("/")[0]


def pytest_collection_modifyitems(items):
    for item in items:
        if str(item.path).startswith(FOLDER):
            item.add_marker(pytest.mark.faults)


@pytest.fixture(scope="session")
def forks() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny", "together"])
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join([FOLDER, *sys.path])):
        forkserver.ensure_running()
    return context
