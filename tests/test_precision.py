"""Which precision `auto` takes."""

import os
import subprocess
import sys

import pytest
import torch

from namap import tensors
from namap.errors import UsageError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capable", "pays", "precision"),
    [
        ([], True, "fp32"),  # not even timed
        (["avx512_bf16"], False, "fp32"),
        (["avx512_bf16"], True, "bf16"),
        (["avx512_bf16", "amx_bf16"], False, "bf16"),
    ],
)
def test_auto_takes_bf16_where_the_processor_is_faster_in_it(monkeypatch, capable, pays, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(capable, True))
    monkeypatch.setattr(tensors, "bf16_pays", lambda: pays)
    assert tensors.pick_precision("auto", CPU) == precision
    assert [tensors.pick_precision(name, CPU) for name in ("fp32", "bf16")] == ["fp32", "bf16"]


def test_the_timing_is_of_this_processor_and_draws_nothing():
    before = torch.get_rng_state()
    pays = tensors.bf16_pays.__wrapped__()  # timed here and now, not what an earlier test found
    assert torch.equal(before, torch.get_rng_state())  # a run's seed decides the same with it and without
    if not torch.cpu.get_capabilities().get("avx512_bf16"):
        assert not pays  # bfloat16 is emulated


def test_the_timing_says_the_same_beside_other_work():
    """A run that is resumed must find the precision that it began with."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        threads = torch.get_num_threads()
        assert len({tensors.bf16_pays.__wrapped__() for _ in range(10)}) == 1
        assert torch.get_num_threads() == threads
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_an_unknown_precision_is_refused():
    with pytest.raises(UsageError, match=r"--precision fp16: unknown; use auto, fp32 or bf16"):
        tensors.pick_precision("fp16", CPU)
