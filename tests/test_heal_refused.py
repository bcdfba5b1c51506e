"""What healing refuses, before it reads any data."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from heal_examples import QUICK, folded_network, network, rows
from onnx_examples import build, folded, gaussian, opened, save

from rankfold.errors import CalibrationDataError, ModelError, OptionsError, RuntimeUnavailableError
from rankfold.heal_model import heal


def test_a_graph_that_torch_cannot_run_is_refused_by_name_and_still_refitted(tmp_path: Path) -> None:
    body = """g (float[N,32] x) => (float[N,8] y) {
      h = MatMul(x, w) o = Tanh(h) d = Det(s) e = Mul(o, d) y = MatMul(e, v) }"""
    weights = {"w": gaussian(32, 32), "v": gaussian(32, 8, seed=1), "s": np.eye(2, dtype=np.float32)}
    proto = build(body, weights)
    base = save(proto, tmp_path / "base.onnx")
    candidate = folded(opened(proto, tmp_path, "base.onnx"), rows(300, seed=50), 4)
    with pytest.raises(ModelError, match="Det"):
        heal(base, candidate, Untouched(), how="distill", output=tmp_path / "healed.onnx", options=QUICK)
    heal(base, candidate, [rows()], output=tmp_path / "healed.onnx", options=QUICK)


class Untouched(Sequence[Any]):
    """Data that must not be read."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: object) -> Any:
        raise AssertionError("the data was read")


def test_without_torch_the_message_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, candidate = folded_network(tmp_path)
    real = builtins.__import__

    def lacking(name: str, *rest: Any) -> Any:
        if name.startswith(("torch", "rankfold.training")):
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(RuntimeUnavailableError, match=r"pip install 'rankfold\[torch\]'"):
        heal(base, candidate, Untouched(), how="distill", output=tmp_path / "healed.onnx")
    heal(base, candidate, [rows()], output=tmp_path / "healed.onnx", options=QUICK)


def test_a_gpu_that_torch_does_not_see_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, candidate = folded_network(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = replace(QUICK, provider="cuda")
    with pytest.raises(RuntimeUnavailableError, match="sees no GPU to train on"):
        heal(base, candidate, Untouched(), how="distill", output=tmp_path / "healed.onnx", options=asked)


def test_what_cannot_be_healed_is_refused(tmp_path: Path) -> None:
    base, candidate = folded_network(tmp_path)
    with pytest.raises(ModelError, match="no folds are recorded"):
        heal(base, network(tmp_path / "other.onnx"), [rows()], output=tmp_path / "healed.onnx")
    with pytest.raises(OptionsError, match="how is 'magic'"):
        heal(base, candidate, [rows()], how="magic")  # type: ignore[arg-type]
    with pytest.raises(CalibrationDataError, match="no labels"):
        heal(base, candidate, [rows()], how="finetune", output=tmp_path / "healed.onnx", options=QUICK)
    with pytest.raises(CalibrationDataError, match="too few held-out samples"):
        heal(base, candidate, [rows(2)], output=tmp_path / "healed.onnx")
    assert not (tmp_path / "healed.onnx").exists()
