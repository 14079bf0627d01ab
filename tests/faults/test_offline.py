"""The whole suite runs without a network: this process, and what it starts."""

import subprocess
import sys

import pytest

ABROAD = "198.51.100.1"  # of a block that is kept for documentation
CONNECT = f"import socket; socket.create_connection(({ABROAD!r}, 80), timeout=5)"
LOOPBACK = """
import socket
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname(), timeout=5)
"""


def test_no_test_reaches_a_network():
    with pytest.raises(OSError, match="no network in tests"):
        exec(CONNECT)
    exec(LOOPBACK)


@pytest.mark.usefixtures("cut_off_for_sure")
def test_nothing_that_a_test_starts_reaches_a_network():
    process = subprocess.run([sys.executable, "-c", CONNECT], capture_output=True, text=True, check=False)
    assert "Network is unreachable" in process.stderr
    subprocess.run([sys.executable, "-c", LOOPBACK], check=True)
