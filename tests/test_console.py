"""What the command line says where something ran out."""

import pytest
import torch

from namap.console import out_of_memory


def test_a_lack_of_memory_is_one_line():
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**50)
    said = str(out_of_memory(failed.value))
    assert said.startswith("out of memory (") and said.endswith(
        "take a smaller batch size, smaller images or another device"
    )
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried")).exit_code == 5
    assert out_of_memory(MemoryError()) and out_of_memory(RuntimeError("shape mismatch")) is None
