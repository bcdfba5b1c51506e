"""Measuring activations of a model: what comes out beside numpy, passes, masks, labels and refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx_examples import Array, build, gaussian, low_rank_rows, run, save

from rankfold.errors import CalibrationDataError, OptionsError
from rankfold.options import Options
from rankfold.representations import Representations, measure_activations
from rankfold.weight_ranks import correlations, spearman_interval

BODY = """
g (float[N,T,12] x, int64[N,T] mask) => (float[N,5] y) {
  [fc1] h = MatMul(x, w1)
  [act] a = Relu(h)
  [fc2] b = MatMul(a, w2)
  [act2] c = Tanh(b)
  [fc3] d = MatMul(c, w3)
  [turn] t = Transpose<perm = [1, 0, 2]>(d)
  [bad] l = Log(d)
  [pool] p = ReduceMean<axes = [1], keepdims = 0>(d)
  [head] y = MatMul(p, w4)
}"""
EVERY_ROW = Options(row_stride=1, batch_size=7)
SAMPLES, TOKENS = 40, 6


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weights = {"w1": gaussian(12, 16), "w2": gaussian(16, 14, seed=1), "w3": gaussian(14, 9, seed=2)}
    return save(build(BODY, weights | {"w4": gaussian(9, 5, seed=3)}), tmp_path / "model.onnx")


@pytest.fixture
def feed() -> dict[str, Array]:
    rows = low_rank_rows(SAMPLES * TOKENS, 12, 3, offset=0.5).reshape(SAMPLES, TOKENS, 12)
    mask = np.arange(TOKENS) < np.random.default_rng(1).integers(2, TOKENS + 1, (SAMPLES, 1))
    return {"x": rows, "mask": mask.astype(np.int64)}


LABELS = np.arange(SAMPLES) % 4


def by_name(found: Representations) -> dict[str, int]:
    return {line.tensor: line.ranks.share_ranks[0.999] for line in found.activations}


def test_every_activation_is_measured_and_what_cannot_be_says_why(model: Path, feed: Mapping[str, Array]) -> None:
    found = measure_activations(model, [dict(feed)], options=EVERY_ROW)
    assert [line.tensor for line in found.activations] == ["x", "h", "a", "b", "c", "d", "t", "p", "y"]
    assert {node.node: node.reason for node in found.skipped} == {"l": "it holds NaN or infinity"}
    assert by_name(found)["x"] == by_name(found)["h"] == 3  # of three directions, and a linear map of them
    assert found.samples == SAMPLES
    assert {line.rows for line in found.activations} == {SAMPLES * TOKENS, SAMPLES}
    assert (found.classes, found.weights, found.correlations) == ({}, (), ())


def test_ranks_are_those_of_the_centred_rows(model: Path, feed: Mapping[str, Array]) -> None:
    (line,) = measure_activations(model, [dict(feed)], patterns=("act",), options=EVERY_ROW).activations
    rows = run(model, dict(feed), "a")[0].reshape(-1, 16).astype(np.float64)
    singular = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    part = singular[singular > 0] / singular.sum()
    # two sessions of the runtime may round float32 differently: 6e-8 of each value, and 16 values
    assert line.ranks.stable == pytest.approx((singular**2).sum() / singular[0] ** 2, rel=1e-5)
    assert line.ranks.effective == pytest.approx(np.exp(-part @ np.log(part)), rel=1e-5)


def test_padding_does_not_count(model: Path, feed: Mapping[str, Array]) -> None:
    spoilt = np.where(feed["mask"][..., None] != 0, feed["x"], 1e3 * gaussian(SAMPLES, TOKENS, 12, seed=9))
    options = replace(EVERY_ROW, mask="mask")
    found = measure_activations(model, [{"x": spoilt.astype(np.float32), "mask": feed["mask"]}], options=options)
    line = {line.tensor: line for line in found.activations}
    assert line["x"].masked
    assert line["t"].masked  # tokens first
    assert not line["y"].masked
    assert line["x"].rows == line["t"].rows == int(feed["mask"].sum())
    assert line["x"].ranks.share_ranks[0.999] == 3
    with pytest.raises(CalibrationDataError, match="mask 'padding' is no input"):
        measure_activations(model, [dict(feed)], options=Options(mask="padding"))


def test_little_memory_takes_more_passes_and_measures_the_same(model: Path, feed: Mapping[str, Array]) -> None:
    passes: list[str] = []

    def progress(items, description, _total):  # type: ignore[no-untyped-def]
        passes.append(description)
        return items

    labelled = {**feed, "labels": LABELS}
    once = measure_activations(model, [labelled], options=EVERY_ROW)
    several = measure_activations(model, [labelled], options=replace(EVERY_ROW, memory_bytes=40000, progress=progress))
    assert len(passes) > 2
    assert by_name(several) == by_name(once)
    assert several.activations[0].ranks == once.activations[0].ranks  # an input: no other fusion of the runtime's


def test_batches_of_another_size_measure_the_same(model: Path, feed: Mapping[str, Array]) -> None:
    labelled = [{**feed, "labels": LABELS}]
    first, second = (
        measure_activations(model, labelled, options=replace(EVERY_ROW, batch_size=size)).activations
        for size in (3, 40)
    )
    for one, other in zip(first, second, strict=True):
        # float32 products of other batch shapes may be rounded otherwise, 6e-8 of each value
        assert one.ranks.effective == pytest.approx(other.ranks.effective, rel=1e-5)
        assert (one.collapse is None) == (other.collapse is None)
        if one.collapse and other.collapse:
            assert one.collapse.within_share == pytest.approx(other.collapse.within_share, rel=1e-5)


def test_rows_can_be_samples(model: Path, feed: Mapping[str, Array]) -> None:
    found = measure_activations(model, [dict(feed)], pooling="mean", options=EVERY_ROW)
    line = {line.tensor: line for line in found.activations}
    assert line["a"].rows == SAMPLES
    assert line["a"].features == 16
    assert {node.node: node.reason.split(":")[0] for node in found.skipped}["t"] == "its axis 0 does not count samples"
    found = measure_activations(model, [dict(feed)], pooling="flatten", patterns=("x",), options=EVERY_ROW)
    assert found.activations[0].features == TOKENS * 12
    with pytest.raises(OptionsError, match="pooling is 'max'; expected one of none, mean, flatten"):
        measure_activations(model, [dict(feed)], pooling="max")  # type: ignore[arg-type]


def test_labels_bring_collapse_and_the_ranks_of_weights(model: Path, feed: Mapping[str, Array]) -> None:
    found = measure_activations(model, [{**feed, "labels": LABELS}], options=EVERY_ROW)
    assert found.classes == {0: 10, 1: 10, 2: 10, 3: 10}
    line = {line.tensor: line.collapse for line in found.activations}
    assert line["t"] is None  # tokens first: no axis of samples
    pooled = feed["x"].astype(np.float64).mean(axis=1)
    means = np.stack([pooled[label == LABELS].mean(axis=0) for label in range(4)])
    within = ((pooled - means[LABELS]) ** 2).sum() / SAMPLES
    assert line["x"] is not None
    assert line["x"].within == pytest.approx(within, rel=1e-9)  # an input: no rounding of the runtime's
    assert [weight.activation for weight in found.weights] == ["x", "a", "c", "p"]
    singular = np.linalg.svd(gaussian(16, 14, seed=1).astype(np.float64), compute_uv=False)
    assert found.weights[1].distance == pytest.approx(np.sqrt((singular[4:] ** 2).sum()), rel=1e-9)
    assert found.weights[1].relative_distance == pytest.approx(
        np.sqrt((singular[4:] ** 2).sum() / (singular**2).sum()), rel=1e-9
    )
    assert found.weights[1].before == line["a"]
    assert [line.layers for line in found.correlations] == [4, 4, 4]
    assert measure_activations(model, [{**feed, "labels": LABELS}], collapse=False, options=EVERY_ROW).weights == ()


def test_a_class_of_one_sample_is_told(model: Path, feed: Mapping[str, Array]) -> None:
    labels = np.array([7] + [0, 1, 2] * 13)
    found = measure_activations(model, [{**feed, "labels": labels}], patterns=("p",), options=EVERY_ROW)
    assert found.classes == {0: 13, 1: 13, 2: 13, 7: 1}
    assert found.warnings == ("classes with a single sample, which tells nothing of how a class varies: 7",)


REFUSED = [
    (None, "there are no 'labels' that could be used"),
    (LABELS.astype(np.float64), r"'labels' is float64 of shape \(40,\); expected one whole number per sample"),
    (LABELS[:-1], r"'labels' is int64 of shape \(39,\); expected one whole number per sample"),
    (np.zeros(SAMPLES, np.int64), "the labels of the data take 1 values; expected 2 to 4096 classes"),
]


@pytest.mark.parametrize(("labels", "message"), REFUSED)
def test_labels_that_are_no_classes_are_refused_where_collapse_is_asked_for(
    model: Path, feed: Mapping[str, Array], tmp_path: Path, labels: Array | None, message: str
) -> None:
    np.savez(tmp_path / "data.npz", **feed, **({} if labels is None else {"labels": labels}))
    with pytest.raises(CalibrationDataError, match=message):
        measure_activations(model, tmp_path / "data.npz", collapse=True)
    found = measure_activations(model, tmp_path / "data.npz", patterns=("p",))
    assert found.activations[0].collapse is None
    assert len(found.warnings) == (labels is not None)  # nobody asked, but there were some


def test_a_row_of_too_many_values_is_left_out(tmp_path: Path) -> None:
    wide = save(build("g (float[N,5000] x) => (float[N,3] y) { [fc] y = MatMul(x, w) }", {"w": gaussian(5000, 3)}),
                tmp_path / "wide.onnx")  # fmt: skip
    found = measure_activations(wide, [{"x": gaussian(8, 5000)}])
    assert [line.tensor for line in found.activations] == ["y"]
    assert found.skipped[0].reason == "its rows have 5000 values; those of more than 4096 are left out"


CHOOSING = """
g (float[N,3] x) => (float[M,3] k) {
  axes = Constant<value = int64[1] {1}>()
  zero = Constant<value = float {0.0}>()
  s = ReduceSum<keepdims = 0>(x, axes)
  chosen = Greater(s, zero)
  [keep] k = Compress<axis = 0>(x, chosen)
}"""


def test_batches_without_rows_and_rows_that_are_no_samples_are_seen(tmp_path: Path) -> None:
    model = save(build(CHOOSING, {}), tmp_path / "choosing.onnx")
    rows = gaussian(30, 3, scale=1.0) + np.float32(0.2)
    rows[0] = 1.0  # the unit that shapes are seen on
    feed = {"x": rows, "labels": np.arange(30) % 2}
    alone = measure_activations(model, [feed], patterns=("k",), options=Options(batch_size=1)).activations[0]
    positive = rows.sum(axis=1) > 0
    assert 1 < positive.sum() < 30
    assert alone.rows == positive.sum()
    assert alone.collapse is not None
    together = measure_activations(model, [feed], patterns=("k",), options=Options(batch_size=5))
    assert together.skipped[0].reason == "its axis 0 counts the samples in some batches only"


def test_the_interval_of_a_correlation() -> None:
    # z = atanh(.5) = .5493; half = 1.96 · √(1.125 / 17) = .5042
    assert spearman_interval(0.5, 20) == pytest.approx((np.tanh(0.0451), np.tanh(1.0535)), abs=1e-3)
    assert spearman_interval(0.5, 3) is None
    assert spearman_interval(1.0, 20) is None
    assert correlations(()) == ()
