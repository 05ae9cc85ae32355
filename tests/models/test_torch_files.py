"""Files that torch wrote, read without it; damaged and hostile ones, refused without harm."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cnn_jax.errors import UserError
from cnn_jax.models import torch_files

GOLDEN = Path(__file__).parent / "golden"
FORMATS = ("archive", "stream")


@pytest.mark.parametrize("name", FORMATS)
def test_tensors_of_all_types_and_layouts(name):
    content = torch_files.read(GOLDEN / f"{name}.pth")
    numbers = np.arange(24, dtype=np.float32) / 8
    expected = {
        "whole": numbers.reshape(2, 3, 4),
        "view": numbers[4:16].reshape(3, 4).T,
        "half": numbers[:4].astype(np.float16),
        "bfloat16": numbers[:4],
        "double": numbers[:4].astype(np.float64),
        "count": np.array(7),
        "mask": np.array([True, False]),
        "none": np.zeros((0, 3), np.float32),
        "expanded": np.array([2.0], np.float32),
    }
    stored = content["state_dict"]
    assert list(stored) == list(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(np.asarray(stored[key], array.dtype), array, strict=True)
    assert stored["bfloat16"].dtype.name == "bfloat16"
    assert (stored["half"].dtype, stored["count"].dtype) == (np.float16, np.int64)
    np.testing.assert_array_equal(content["module"]["weight"], [[0.5, 0.5]])
    np.testing.assert_array_equal(content["parameter"], numbers[:2])
    assert content["epoch"] == 3


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_end_with_one_line(name, tmp_path):
    whole = (GOLDEN / f"{name}.pth").read_bytes()
    path = tmp_path / "weights.pth"
    rng = np.random.default_rng(0)
    damaged = [b"", b"PK\x03\x04", *(whole[: len(whole) * part // 9] for part in range(1, 9))]
    for _ in range(40):
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), 8):
            changed[place] = rng.integers(256)
        damaged.append(bytes(changed))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            torch_files.read(path)
        except UserError as error:
            refused += 1
            assert str(error).startswith(f"{path}: not a torch file of named tensors (")
            assert "\n" not in str(error)
    assert refused > len(damaged) / 2


class Surprise:
    """Unpickled, it would write a file."""

    def __reduce__(self):
        return (open, ("surprise", "w"))


def archive(path, pickled, compression=zipfile.ZIP_STORED):
    """An archive as torch writes it, of one pickle and one storage of four numbers."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("x/data.pkl", pickled)
        file.writestr("x/data/0", np.arange(4, dtype=np.float32).tobytes())


def test_no_code_of_a_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archive(Path("weights.pth"), pickle.dumps({"a": Surprise(), "b": 1}))
    assert torch_files.read(Path("weights.pth"))["b"] == 1
    assert not Path("surprise").exists()


def layout(offset, size, stride):
    """The pickle of a mapping with a tensor of this layout over the four numbers."""
    tensor = f"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQI{offset}\n"
    shape = "".join(f"I{n}\n" for n in size), "".join(f"I{n}\n" for n in stride)
    text = f"(dS'a'\nctorch._utils\n_rebuild_tensor_v2\n({tensor}({shape[0]}t({shape[1]}ttRs."
    return text.encode()


def test_tensors_lie_within_their_storages(tmp_path):
    path = tmp_path / "weights.pth"
    archive(path, layout(1, (3,), (1,)))
    np.testing.assert_array_equal(torch_files.read(path)["a"], [1, 2, 3])
    for wrong in ((2, (3,), (1,)), (0, (2,), (-1,)), (-1, (2,), (1,)), (0, (10**12,), (0,))):
        archive(path, layout(*wrong))
        with pytest.raises(UserError, match=r"a tensor (lies beyond|is larger than) its storage"):
            torch_files.read(path)


def test_a_compressed_archive_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    archive(path, pickle.dumps({}), zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        torch_files.read(path)
