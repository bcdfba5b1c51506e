"""Pickled dicts of byte arrays, as some data sets are published; nothing that a pickle names is ever called.

A pickle of a numpy array names numpy's own functions. Here stand-ins take their places, which accept the numbers of an
array and do nothing; any other name is refused.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What a damaged pickle can make the unpickler raise, by its documentation and by trial.
_SPOILT = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    TypeError,
    ValueError,
)
_BYTE_TYPES = {"u1", "B", "|u1"}


class _ByteType:
    """Stands for `numpy.dtype`; the state that follows in the pickle says nothing of single bytes."""

    def __init__(self, code: bytes | str, *_flags: object) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else str(code)

    def __setstate__(self, state: object) -> None:
        if self.code not in _BYTE_TYPES:
            raise pickle.UnpicklingError(f"it holds an array of type {self.code!r}, expected unsigned bytes")


class _Array:
    """Stands for `numpy.ndarray`; the state is (version, shape, type, Fortran order, bytes)."""

    def __init__(self) -> None:
        self.values: NDArray[np.uint8] = np.zeros(0, np.uint8)

    def __setstate__(self, state: tuple[int, tuple[int, ...], _ByteType, bool, bytes]) -> None:
        _, shape, kind, fortran, raw = state
        if not isinstance(kind, _ByteType) or not isinstance(raw, bytes) or len(raw) != math.prod(shape):
            raise pickle.UnpicklingError(f"it holds an array of shape {shape} without its bytes")
        self.values = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_anything: object) -> _Array:
    return _Array()


_STAND_INS = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _ByteType,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,  # its name from numpy 2 on
}


class _ArraysAlone(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of a name, or refuse it."""
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and nothing but arrays is read")
        return _STAND_INS[module, name]


def load(path: Path) -> dict[str, Any]:
    """Return the pickled dict of a file: arrays of unsigned bytes; numbers, bytes and lists as they are.

    Text of Python 2 comes as bytes, but for the keys of the dict.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged, is no dict, or names anything but arrays.
    """
    with path.open("rb") as file:
        try:
            content = _ArraysAlone(file, encoding="bytes").load()
        except _SPOILT as error:
            raise ValueError(f"{path}: not a pickle of arrays as published ({error}); fetch it again") from error
    if isinstance(content, dict):
        return {_text(key): value.values if isinstance(value, _Array) else value for key, value in content.items()}
    raise ValueError(f"{path}: a pickled {type(content).__name__}, expected a dict; fetch it again")


def _text(key: object) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)
