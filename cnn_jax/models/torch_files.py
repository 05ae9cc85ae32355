"""Tensors from torch's files (.pth, .pt, .bin, .ckpt), read without torch and without any code.

`torch.save` writes a pickle in which each tensor is a call that names a storage. The storages lie
in the same zip archive (since torch 1.6), or behind the pickle. Here the calls only note what they
are given, and every other class of the pickle, whatever it is, becomes an empty `_Other`. So
nothing of the file is run, and the files of training tools, which hold more than tensors, are read
too.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from cnn_jax.errors import UserError

# What the first pickle of a file before torch 1.6 holds, and the number of those before the object.
_MAGIC, _HEADERS = 0x1950A86A20F9469CFC6C, 3

_TYPES: Mapping[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


def read(path: Path) -> Any:
    """Read the object of a torch file, with NumPy arrays as its tensors.

    Args:
        path: a regular file.

    Returns:
        Nested mappings, lists and values; what is of no class that is needed here has no content.

    Raises:
        UserError: it is no such file, or a damaged one.
    """
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    return _read_archive(archive)
            file.seek(0)
            return _read_stream(file)
    except Exception as error:  # pickle, zipfile and NumPy raise all kinds for damage
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{path}: not a torch file of named tensors ({reason})") from error


class _Storage(NamedTuple):
    """A storage by its key in the file."""

    key: str
    dtype: np.dtype
    length: int


class _Tensor(NamedTuple):
    """A tensor as its call describes it: offset and strides in elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def of(self, values: np.ndarray) -> np.ndarray:
        """The array, given the values of its storage."""
        last = self.offset + sum(
            (n - 1) * step for n, step in zip(self.size, self.stride, strict=True)
        )
        if math.prod(self.size) == 0:
            return np.zeros(self.size, values.dtype)
        if min(self.offset, *self.stride, *self.size, 0) < 0 or last >= len(values):
            raise ValueError("a tensor lies beyond its storage")
        if math.prod(self.size) > len(values):
            raise ValueError("a tensor is larger than its storage")
        strides = [step * values.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.size, strides)


class _Other:
    """Anything else of a pickle: takes whatever is done to it, and keeps nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take any arguments."""

    def __setstate__(self, state: Any) -> None:
        """Take any state."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Take any item."""

    def append(self, item: Any) -> None:
        """Take any item."""

    extend = add = append


class _Dictionary(OrderedDict):
    """An ordered dictionary, whose attributes (torch's `_metadata`) are passed over."""

    def __setstate__(self, state: Any) -> None:
        """Take any state."""


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Any:
    if not isinstance(storage, _Storage):
        return _Other()
    return _Tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


def _parameter(tensor: Any, *rest: Any) -> Any:
    return tensor


_CALLS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("collections", "OrderedDict"): _Dictionary,
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that calls nothing but what is in this module.

    Attributes:
        storages: those that were met, by key.
    """

    def __init__(self, file: Any) -> None:
        """Read from an open file."""
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The type of a storage, a call of this module, or what takes anything."""
        if module == "torch" and name in _TYPES:
            return np.dtype(_TYPES[name])
        return _CALLS.get((module, name), _Other)

    def persistent_load(self, pid: Any) -> Any:
        """The storage that a persistent identifier stands for."""
        _, dtype, key, _, length, *_ = pid
        if not isinstance(dtype, np.dtype):
            return _Other()
        return self.storages.setdefault(str(key), _Storage(str(key), dtype, int(length)))


def _read_archive(archive: zipfile.ZipFile) -> Any:
    """The object of a file since torch 1.6."""
    (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    folder = name.removesuffix("data.pkl")

    def entry(name: str) -> bytes:
        found = archive.getinfo(folder + name)
        # Compressed, a small file could take all memory; torch compresses none.
        if found.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{found.filename} is compressed")
        return archive.read(found)

    big = f"{folder}byteorder" in archive.namelist() and entry("byteorder") == b"big"
    unpickler = _Unpickler(io.BytesIO(entry("data.pkl")))
    content = unpickler.load()
    stored = {
        key: np.frombuffer(
            entry(f"data/{key}"), storage.dtype.newbyteorder(">") if big else storage.dtype
        )
        for key, storage in unpickler.storages.items()
    }
    return _with_arrays(content, stored)


def _read_stream(file: BinaryIO) -> Any:
    """The object of a file before torch 1.6."""
    magic, *_ = (_Unpickler(file).load() for _ in range(_HEADERS))
    if magic != _MAGIC:
        raise ValueError("it begins with something else")
    unpickler = _Unpickler(file)
    content, keys = unpickler.load(), _Unpickler(file).load()
    stored: dict[str, np.ndarray] = {}
    for key in map(str, keys):
        storage, length = unpickler.storages[key], int.from_bytes(file.read(8), "little")
        values = file.read(storage.length * storage.dtype.itemsize)
        stored[key] = np.frombuffer(values, storage.dtype)
        if not storage.length == length == len(stored[key]):
            raise ValueError("it is cut off")
    return _with_arrays(content, stored)


def _with_arrays(content: Any, stored: Mapping[str, np.ndarray]) -> Any:
    """Nested mappings with arrays in place of tensors."""
    if isinstance(content, _Tensor):
        return content.of(stored[content.storage.key])
    if isinstance(content, Mapping):
        return {key: _with_arrays(value, stored) for key, value in content.items()}
    return content
