"""What healing refuses, before it reads any data."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from heal_examples import QUICK, folded_network, network, rows, spoilt
from onnx_examples import build, folded, gaussian, opened, save

from rankfold.errors import CalibrationDataError, ModelError, OptionsError, RuntimeUnavailableError
from rankfold.heal_model import heal
from rankfold.pipeline import compress


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
    with pytest.raises(ModelError, match="Det"):
        compress(base, Untouched(), keep=0.5, output=tmp_path / "out.onnx", options=replace(QUICK, heal="distill"))


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
    with pytest.raises(CalibrationDataError, match="no 'labels'"):
        heal(base, candidate, [rows()], how="finetune", output=tmp_path / "healed.onnx", options=QUICK)
    with pytest.raises(CalibrationDataError, match="too few held-out samples"):
        heal(base, candidate, [rows(2)], output=tmp_path / "healed.onnx")
    assert not (tmp_path / "healed.onnx").exists()


def test_a_mask_that_is_no_input_is_refused(tmp_path: Path) -> None:
    base, candidate = folded_network(tmp_path)
    with pytest.raises(CalibrationDataError, match=r"mask 'nope' is no input of .*its inputs are x"):
        heal(base, candidate, Untouched(), output=tmp_path / "healed.onnx", options=replace(QUICK, mask="nope"))


LABELS = {
    "one is too large": (np.where(np.arange(600) == 3, 99, 0), "labels run from 0 to 99, output 'y' has 8 classes"),
    "one is negative": (np.where(np.arange(600) == 3, -100, 0), "labels run from -100 to 0, output 'y' has 8"),
    "of fractions": (np.zeros(600, np.float32), r"data.npz: 'labels' is float32 of shape \(600,\); expected one whole"),
    "too few": (np.zeros(100, np.int64), r"data.npz: 'labels' is int64 of shape \(100,\); expected one whole"),
    "text": (np.full(600, "cat"), r"data.npz: 'labels' is .* of shape \(600,\); expected one whole"),
}


@pytest.mark.parametrize("name", list(LABELS))
def test_labels_that_are_no_classes_are_refused_before_any_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, candidate = folded_network(tmp_path)
    labels, message = LABELS[name]
    np.savez(tmp_path / "data.npz", labels=labels, **rows())
    monkeypatch.setattr("rankfold.heal_steps.refit", lambda _: pytest.fail("a step was taken"))
    with pytest.raises(CalibrationDataError, match=message):
        heal(base, candidate, tmp_path / "data.npz", how="finetune", output=tmp_path / "h.onnx", options=QUICK)


def test_compress_wants_labels_before_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = network(tmp_path / "base.onnx")
    monkeypatch.setattr("rankfold.pipeline.decide", lambda *_: pytest.fail("a plan was made"))
    options = replace(QUICK, heal="finetune")
    with pytest.raises(CalibrationDataError, match=r"no 'labels' that could be used .*or heal by distillation"):
        compress(base, [rows()], keep=0.5, output=tmp_path / "o.onnx", options=options)


def test_a_candidate_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    base, candidate = folded_network(tmp_path)
    broken = spoilt(candidate, "shift", np.full(48, np.nan), tmp_path / "broken.onnx")
    with pytest.raises(ModelError, match=r"broken\.onnx: its outputs hold NaN or infinity where the original's are"):
        heal(base, broken, [rows()], output=tmp_path / "healed.onnx", options=QUICK)


@pytest.mark.parametrize(("inside", "out"), [(64, 8), (48, 16)])
def test_an_original_of_other_widths_is_refused(inside: int, out: int, tmp_path: Path) -> None:
    def of_width(hidden: int, last: int) -> onnx.ModelProto:
        body = "g (float[N,32] x) => (float[N,M] y) { h = MatMul(x, w1) a = Relu(h) y = MatMul(a, w2) }"
        return build(body, {"w1": gaussian(32, hidden), "w2": gaussian(hidden, last, seed=1)})

    candidate = folded(opened(of_width(48, 8), tmp_path, "base.onnx"), rows(300, seed=50), 4)
    other = save(of_width(inside, out), tmp_path / "other.onnx")
    with pytest.raises(
        ModelError, match=r"folded\.onnx: tensor '[hy]' has shape .*, and in .*other\.onnx .*; give the"
    ):
        heal(other, candidate, [rows()], output=tmp_path / "healed.onnx", options=QUICK)
