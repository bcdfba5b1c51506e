"""Weights out of a file: a state dict that torch.save wrote, or safetensors; nothing that the file names is run."""

from __future__ import annotations

import json
import math
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# safetensors' names of types, and numpy's; bfloat16, which numpy lacks, is read as its upper half of a float32.
_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_HEADER_BYTES = 100_000_000  # the format's own limit
# Where training scripts put the weights beside other things: timm's and Lightning's, torchvision's, and others'.
_INSIDE = ("state_dict", "model", "model_state_dict")
_WRAPPERS = ("module.", "_orig_mod.")  # put before every name by DataParallel and by torch.compile
# What torch.load raises for files that are damaged or that hold more than tensors.
_UNREADABLE = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, on the CPU.

    A state dict inside of a training script's checkpoint (under `state_dict`, `model` or `model_state_dict`) is found,
    and what DataParallel and torch.compile put before each name is taken off.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged, of another format, or holds more than tensors.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise ValueError(f"{path}: an empty file, expected a state dict; copy it again")
    weights = _read_safetensors(path) if start[8:9] == b"{" else _read_torch(path)
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in weights):
            weights = {name.removeprefix(wrapper): value for name, value in weights.items()}
    return weights


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it holds a {named[1]}" if named else str(error).partition("\n")[0]
        raise ValueError(
            f"{path}: not a readable file of tensors alone ({what}); write it with "
            "torch.save(model.state_dict(), FILE), or as safetensors"
        ) from error
    for name in _INSIDE:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    return _checked(path, content)


def _checked(path: Path, content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected a state dict: names and their tensors")
    others = [(name, type(value).__name__) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        name, kind = others[0]
        raise ValueError(f"{path}: {name!r} is a {kind}, expected a tensor; save model.state_dict() by itself")
    return {str(name): value for name, value in content.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    if length > min(len(raw) - 8, _HEADER_BYTES):
        raise ValueError(f"{path}: its header has {length:,} bytes, the file {len(raw):,}; cut short: copy it again")
    try:
        entries = json.loads(raw[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its header is no JSON ({error}); copy it again") from error
    body = memoryview(raw)[8 + length :]
    named = {name: entry for name, entry in entries.items() if name != "__metadata__"}
    return _checked(path, {name: _tensor(path, name, entry, body) for name, entry in named.items()})


def _tensor(path: Path, name: str, entry: Any, body: memoryview) -> Tensor:
    match entry:
        case {"dtype": str(kind), "shape": [*extents], "data_offsets": [int(begin), int(end)]} if kind in _TYPES:
            shape = tuple(extents)
        case _:
            raise ValueError(
                f"{path}: {name!r} is {entry}, expected dtype ({', '.join(_TYPES)}), shape and data_offsets"
            )
    if not all(type(extent) is int and extent >= 0 for extent in shape):
        raise ValueError(f"{path}: {name!r} has the shape {shape}, expected whole numbers")
    size = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
    if not 0 <= begin <= end <= len(body) or end - begin != size:
        raise ValueError(
            f"{path}: {name!r} lies at {begin:,} to {end:,} of {len(body):,} bytes, expected {size:,} bytes for its "
            "shape; cut short or damaged: copy it again"
        )
    values = np.frombuffer(body[begin:end], _TYPES[kind]).reshape(shape)
    if kind == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return torch.from_numpy(values.copy())
