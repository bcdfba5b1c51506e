"""The benchmark that compares the executor with onnxruntime: that it sees what differs, not how fast things are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from benchmarks import executor_parity
from benchmarks.executor_parity import Parity, Subject, parity, table
from onnx import numpy_helper
from onnx_examples import build as model_of
from onnx_examples import gaussian

# Some roundings of float32, 6e-8 each; a wrong operator is away by parts of a whole.
ROUNDINGS = 1e-5


def test_shipped_networks_differ_by_roundings() -> None:
    found = [parity(subject) for subject in executor_parity.shipped()]
    assert [line.group for line in found] == ["embedded ViT", "embedded ResNet"]
    assert all(line.difference is not None and line.difference < ROUNDINGS for line in found)


def test_a_difference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("g (float[N,8] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": gaussian(8, 4)})
    subject = Subject("product", model, {"x": gaussian(3, 8, seed=1, scale=1.0)})
    assert parity(subject).difference < ROUNDINGS
    real = executor_parity.build

    def spoilt(proto: onnx.ModelProto) -> torch.nn.Module:
        return real(proto, weights={"w": 1.01 * gaussian(8, 4)})

    monkeypatch.setattr(executor_parity, "build", spoilt)
    assert parity(subject).difference == pytest.approx(0.01, abs=ROUNDINGS)


def test_refused_models_are_kept_out_of_the_table() -> None:
    model = model_of("g (float[N] x) => (float[N] y) { y, i, j, c = Unique(x) }", {})
    refused = parity(Subject("odd", model, {"x": np.ones(3, np.float32)}))
    assert refused.difference is None
    assert "operator Unique" in refused.refusal
    lines = table([refused, Parity("fine", 10, 3, 1e-7), Parity("fine", 1000, 4, 2e-6)], {"vit-fashion": 1.0})
    assert "odd" not in lines
    assert "| fine | 2 | 1,010 | 2.0e-06 |" in lines.splitlines()
    assert "| embedded ViT | 1.00 |" in lines.splitlines()


def test_constant_weights_become_random_ones() -> None:
    text = """
    g (float[1,3,5,5] x) => (float[1,4,3,3] y) <int64[4] four = {4, 3, 3, 3}, int64[1] one = {4}> {
      k = ConstantOfShape<value = float[1] {0.5}>(four)
      b = ConstantOfShape<value = float[1] {0.25}>(one)
      y = Conv(x, k, b)
    }
    """
    (weight, bias, _) = executor_parity._with_weights(model_of(text, {})).graph.node
    assert (weight.op_type, bias.op_type) == ("Constant", "ConstantOfShape")
    numbers = numpy_helper.to_array(weight.attribute[0].t)
    assert numbers.shape == (4, 3, 3, 3)
    assert len(np.unique(numbers)) == numbers.size
