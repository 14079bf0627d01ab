import pickle

import pytest
import torch

from namap.checkpoint import atomic_directory, load_directory, save_directory
from namap.errors import StorageError, UsageError
from namap.generators import load_generator


def test_round_trip_and_no_scratch_left(tmp_path):
    image = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    save_directory(tmp_path / "m", {"a": image, "b": image[0]}, {"k": 1})
    tensors, config = load_directory(tmp_path / "m")
    torch.testing.assert_close(tensors["a"], image)
    assert config == {"k": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_found(tmp_path, name, damage):
    save_directory(tmp_path / "m", {"a": torch.rand(50)}, {"k": 1})
    file = tmp_path / "m" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    if damage == "flip":
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[:-5])
    else:
        file.unlink()
    with pytest.raises(StorageError):
        load_directory(tmp_path / "m")


def test_a_failed_save_leaves_the_old_directory(tmp_path):
    save_directory(tmp_path / "m", {"a": torch.zeros(1)}, {})
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "m"):
        raise RuntimeError
    assert load_directory(tmp_path / "m")[0]["a"].item() == 0
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.faults
def test_links_and_paths_out_of_the_directory_are_refused(tmp_path):
    save_directory(tmp_path / "m", {"a": torch.zeros(1)}, {})
    (tmp_path / "elsewhere").write_bytes((tmp_path / "m" / "config.json").read_bytes())
    (tmp_path / "m" / "config.json").unlink()
    (tmp_path / "m" / "config.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="plain file"):
        load_directory(tmp_path / "m")


class Boom:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was executed')",))


def test_a_pickle_is_refused_and_not_executed(tmp_path):
    file = tmp_path / "model.pt"
    file.write_bytes(pickle.dumps(Boom()))
    with pytest.raises(UsageError, match="trust-pickle"):
        load_generator(file)
    with pytest.raises(StorageError, match="is a pickle"):
        load_generator(tmp_path)
