"""Weights out of files: state dicts of torch.save, safetensors, and what is wrong with them."""

from __future__ import annotations

import json
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from rankfold.models import weight_files

STATE = OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.tensor(3), c=torch.ones(2, dtype=torch.bfloat16))


def safetensors(path: Path, entries: dict[str, object], body: bytes) -> Path:
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    return path


def entry(kind: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return list(found) == list(expected) and all(
        found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in expected.items()
    )


@pytest.mark.parametrize("old_format", [False, True])
def test_state_dicts_of_torch_are_read(tmp_path: Path, old_format: bool) -> None:
    torch.save(STATE, tmp_path / "x.pt", _use_new_zipfile_serialization=not old_format)
    assert same(weight_files.read(tmp_path / "x.pt"), STATE)


@pytest.mark.parametrize("place", ["state_dict", "model", "model_state_dict"])
def test_state_dicts_inside_of_checkpoints_are_found(tmp_path: Path, place: str) -> None:
    torch.save({"epoch": 3, place: STATE, "optimizer": {"lr": 0.1}}, tmp_path / "x.pt")
    assert same(weight_files.read(tmp_path / "x.pt"), STATE)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_what_wrappers_put_before_names_is_taken_off(tmp_path: Path, wrapper: str) -> None:
    torch.save({wrapper + name: value for name, value in STATE.items()}, tmp_path / "x.pt")
    assert same(weight_files.read(tmp_path / "x.pt"), STATE)
    torch.save({wrapper + "a": STATE["a"], "b": STATE["b"]}, tmp_path / "x.pt")
    assert list(weight_files.read(tmp_path / "x.pt")) == [wrapper + "a", "b"]


def test_safetensors_are_read(tmp_path: Path) -> None:
    numbers = np.array([[1.5, -2.0], [0.25, 4.0]], np.float32)
    upper = (numbers.view(np.uint32) >> 16).astype("<u2")  # these four lose nothing as bfloat16
    body = numbers.tobytes() + numbers.astype("<f2").tobytes() + upper.tobytes() + np.int64(9).tobytes()
    entries = {
        "__metadata__": {"format": "pt"},
        "f32": entry("F32", [2, 2], 0, 16),
        "f16": entry("F16", [4], 16, 24),
        "bf16": entry("BF16", [2, 2], 24, 32),
        "i64": entry("I64", [], 32, 40),
        "none": entry("F64", [0, 3], 40, 40),
    }
    found = weight_files.read(safetensors(tmp_path / "x.safetensors", entries, body))
    expected = torch.tensor(numbers)
    assert same(
        found,
        {
            "f32": expected,
            "f16": expected.flatten().half(),
            "bf16": expected,
            "i64": torch.tensor(9),
            "none": torch.zeros(0, 3, dtype=torch.float64),
        },
    )


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"w": entry("F32", [2, 3], 0, 24)}, r"'w' lies at 0 to 24 of 16 bytes.* cut short"),
        ({"w": entry("F32", [3], 0, 16)}, r"'w' lies at 0 to 16 of 16 bytes, expected 12 bytes"),
        ({"w": entry("F32", [4], -16, 0)}, r"'w' lies at -16 to 0"),
        ({"w": entry("F32", [-4], 0, 16)}, r"'w' has the shape \(-4,\), expected whole numbers"),
        ({"w": entry("F8_E4M3", [16], 0, 16)}, r"'w' is .*F8_E4M3.*, expected dtype \(F64, F32, F16, BF16"),
        ({"w": {"dtype": "F32"}}, r"'w' is .*, expected dtype .*, shape and data_offsets"),
        ({"w": 3}, r"'w' is 3, expected dtype"),
        ({}, r"holds a dict, expected a state dict"),
    ],
)
def test_spoilt_safetensors_are_refused(tmp_path: Path, entries: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weight_files.read(safetensors(tmp_path / "x.safetensors", entries, bytes(16)))


def test_safetensors_cut_short_are_refused(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "x.safetensors", {"w": entry("F32", [4], 0, 16)}, bytes(16))
    whole = path.read_bytes()
    for length in range(9, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"x\.safetensors: .*(cut short|no JSON)"):
            weight_files.read(path)
    path.write_bytes(struct.pack("<Q", 20) + b"{" + b"[" * 19)
    with pytest.raises(ValueError, match="its header is no JSON"):
        weight_files.read(path)


def test_files_of_torch_cut_short_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for old_format in (False, True):
        torch.save(STATE, path, _use_new_zipfile_serialization=not old_format)
        whole = path.read_bytes()
        for length in (1, 8, 20, len(whole) // 2, len(whole) - 4):
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=r"x\.pt: not a readable file of tensors alone .*torch\.save"):
                weight_files.read(path)


class Script:
    """What an unpickler that allows everything would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("import pathlib; pathlib.Path('ran').touch()",)


def test_nothing_that_a_file_names_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(2), "b": Script()}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt: not a readable file of tensors alone \(it holds a .*exec"):
        weight_files.read(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "holds a list, expected a state dict"),
        ({}, "holds a dict, expected a state dict"),
        ({"epoch": 3, "net": {"a": torch.ones(2)}}, "'epoch' is a int, expected a tensor; save model.state_dict"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=message):
        weight_files.read(tmp_path / "x.pt")


def test_empty_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pt").touch()
    with pytest.raises(ValueError, match="an empty file"):
        weight_files.read(tmp_path / "x.pt")
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        weight_files.read(tmp_path / "none.pt")
