"""Which tensors are activations, along which axis their features lie, and how they become rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_examples import build, gaussian, opened

from rankfold.errors import OptionsError
from rankfold.passes.activations import find_activations
from rankfold.passes.graph_index import index_graph
from rankfold.passes.model_file import Model
from rankfold.runtime_calib.activation_rows import RowSums, position_rows, sample_rows

CONVOLUTIONAL = """
g (float[N,3,8,8] image, float[N,5] side) => (float[N,4] y) {
  half = Constant<value = float {0.5}>()
  [centre] moved = Sub(image, half)
  [conv] c = Conv<kernel_shape = [3, 3]>(moved, w)
  [act] r = Relu(c)
  [pool] p = GlobalAveragePool(r)
  [flat] f = Flatten(p)
  [sizes] s = Shape(f)
  [turn] wt = Transpose(wl)
  [fc] h = MatMul(f, wt)
  [head] z = Gemm(side, ws)
  [sum] y = Add(h, z)
}"""


@pytest.fixture
def model(tmp_path: Path) -> Model:
    weights = {"w": gaussian(6, 3, 3, 3), "wl": gaussian(4, 6), "ws": gaussian(5, 4)}
    return opened(build(CONVOLUTIONAL, weights), tmp_path)


def axes_of(model: Model, *patterns: str) -> dict[str, int]:
    found = find_activations(model, index_graph(model.proto), patterns)
    return {activation.tensor: activation.feature_axis for activation in found}


def test_channels_are_found_around_convolutions_and_nothing_else_is_an_activation(model: Model) -> None:
    # neither the constant nor the transposed weight depends on an input, and the shape is no float
    channels = dict.fromkeys(("image", "moved", "c", "r", "p"), 1)
    assert axes_of(model) == {"image": 1, "side": -1, **channels, "f": -1, "h": -1, "z": -1, "y": -1}


def test_patterns_choose_by_tensor_node_and_operator(model: Model) -> None:
    assert list(axes_of(model, "conv", "G*")) == ["c", "p", "z"]
    assert list(axes_of(model, "input")) == ["image", "side"]
    assert list(axes_of(model, "?")) == ["c", "r", "p", "f", "h", "z", "y"]


def test_a_pattern_that_matches_nothing_is_refused(model: Model) -> None:
    with pytest.raises(OptionsError, match=r"pattern 'layer\*' matches no activation .* image, side, .* and 5 more"):
        axes_of(model, "fc", "layer*")


def test_rows_of_positions_leave_padding_out() -> None:
    tokens = np.arange(24.0).reshape(2, 3, 4)
    tokens[1, 2] = np.nan
    counted = np.array([1, 1, 1, 1, 1, 0], bool)
    np.testing.assert_array_equal(position_rows(tokens, -1, counted), np.arange(20.0).reshape(5, 4))
    image = np.arange(24.0).reshape(2, 3, 2, 2)
    assert position_rows(image, 1, None).shape == (8, 3)
    np.testing.assert_array_equal(position_rows(image, 1, None)[1], image[0, :, 0, 1])


def test_a_sample_is_the_mean_of_its_positions_or_all_its_values() -> None:
    image = np.arange(24.0).reshape(2, 3, 2, 2)
    rows, there = sample_rows(image, 1, None, "mean")
    np.testing.assert_array_equal(rows, image.mean(axis=(2, 3)))
    assert there.all()
    rows, _ = sample_rows(image, 1, None, "flatten")
    np.testing.assert_array_equal(np.sort(rows), image.reshape(2, -1))


def test_padding_is_left_out_of_a_sample_and_empty_samples_out_of_all() -> None:
    tokens = np.arange(24.0).reshape(2, 3, 4)
    tokens[0, 2] = np.nan
    counted = np.array([[1, 1, 0], [0, 0, 0]], bool)
    rows, there = sample_rows(tokens, -1, counted, "mean")
    assert there.tolist() == [True, False]
    np.testing.assert_array_equal(rows, tokens[:1, :2].mean(axis=1))
    rows, _ = sample_rows(tokens, -1, counted, "flatten")
    np.testing.assert_array_equal(rows, [[*range(8), 0, 0, 0, 0]])


def test_sums_far_from_zero_keep_what_varies() -> None:
    rows = np.random.default_rng(0).standard_normal((400, 3))
    near, far = RowSums(), RowSums()
    for part in np.array_split(rows, 5):
        near.add(part)
        far.add(part + 1e8)
    # the numbers themselves are rounded to 1e8 · 1.1e-16, and nothing is lost on top of that
    np.testing.assert_allclose(far.moments.covariance, near.moments.covariance, atol=1e-7)
