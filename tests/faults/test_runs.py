"""Whose a directory is: two runs in one, a lock of the dead, other data, another configuration."""

import socket
import time

import pytest
import tiny
from test_kills import newest, start

from namap.errors import StorageError, UsageError

FOREVER = 100_000
ROW = '{"step": 1, "images": 16, "seconds": 0.1, "loss": %s}\n'
VALUES = ("null", '"x"', "[[1]]", "{}", "true", "1" + "0" * 400, '[1, "x"]', "1e999")
ROWS = [(ROW % value).encode() for value in VALUES] + [(ROW % "1" + ROW % "[1]").encode(), b'{"step": 1}\n']


def test_a_second_run_is_refused_and_the_lock_of_a_dead_one_taken_over(forks, tmp_path):
    first = start(forks, "vae", tmp_path, FOREVER)
    while not newest(tmp_path) and first.is_alive():
        time.sleep(0.01)
    named = f"in use by process {first.pid} on {socket.gethostname()}"
    with pytest.raises(StorageError, match=named) as error:
        tiny.fit("vae", tmp_path, FOREVER)
    assert error.value.exit_code == 5
    first.kill()
    first.join()
    assert f"process {first.pid} " in (tmp_path / ".lock").read_text(), "stale"
    before = newest(tmp_path)
    second = start(forks, "vae", tmp_path, FOREVER)
    while newest(tmp_path) == before and second.is_alive():
        time.sleep(0.01)
    assert second.is_alive()
    second.terminate()
    second.join()
    assert second.exitcode == 143


def test_changed_data_or_configuration_is_refused_and_printed(tmp_path):
    tiny.fit("vae", tmp_path, 2)
    with pytest.raises(UsageError, match=r"task\.recipe\.images \(32, now 48\)") as error:
        tiny.fit("vae", tmp_path, 3)
    assert error.value.exit_code == 2
    with pytest.raises(UsageError, match=r"another data \(changed since\)"):
        tiny.unfitted("vae", 2).fit(tiny.pictures(63), tmp_path, quiet=True)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"task": {"recipe": 3}}'])
def test_a_damaged_record_of_a_run_is_one_line(content, tmp_path):
    tiny.fit("vae", tmp_path, 2)
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises((StorageError, UsageError)) as error:
        tiny.fit("vae", tmp_path, 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"{\n", b"[]\n", b"\xff\n", b"{}\n", b'{"step": "1"}\n', *ROWS])
def test_a_damaged_log_is_one_line(content, tmp_path):
    tiny.loop(tmp_path, 2).run_all()
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(StorageError, match=r"metrics\.jsonl: damaged"):
        tiny.loop(tmp_path, 2).run_all()
