"""The rivals' bases, against their own formulas and against ours where the two must agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.evidence import Evidence, collect_evidence
from benchmarks.folding import fold_with
from benchmarks.rivals import RIVALS, afm, asvd, plain_svd, rival_bases, svd_llm, whitening
from numpy.typing import NDArray
from onnx_examples import build, gaussian, low_rank_rows, run, save
from scipy import linalg

from rankfold import Options
from rankfold.opening import open_model
from rankfold.passes.factors import factorise
from rankfold.passes.side_moments import SideMoments
from rankfold.passes.spectrum import Spectrum, spectrum
from rankfold.values import RankPlan, SiteRank

Matrix = NDArray[np.float64]
SHAPES = [(12, 20), (20, 12), (16, 16)]
# Ours lifts the input's eigenvalues by 1e-13 of the largest, far above float64's rounding; a direction turns by that
# over its distance from the next, and neighbours here are some 1e-4 of the largest apart: 1e-9.
ROUNDING = 1e-9


def rows_and_weight(shape: tuple[int, int], seed: int) -> tuple[Matrix, Matrix]:
    """Return 400 rows with a mean and unequal, dependent features, and a weight."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((shape[0], shape[0])) * np.geomspace(1, 0.3, shape[0]) + np.eye(shape[0])
    rows = random.standard_normal((400, shape[0])) @ mixing + random.standard_normal(shape[0])
    return rows, random.standard_normal(shape)


def moments(rows: Matrix, *, of_input: bool) -> SideMoments:
    return SideMoments(of_input, float(len(rows)), (1.0,), (rows.mean(axis=0),), rows.T @ rows / len(rows))


def evidence(rows: Matrix, weight: Matrix) -> Evidence:
    inputs, outputs = moments(rows, of_input=True), moments(rows @ weight, of_input=False)
    return Evidence(inputs, outputs, np.abs(rows).mean(axis=0))


def replaced(weight: Matrix, basis: Spectrum, rank: int) -> Matrix:
    """Return `W'`, from the factors that a fold would write."""
    factors = factorise(weight, basis, rank, dtype=np.float64)
    product: Matrix = factors.down @ factors.up
    return product


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("of_input", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_svd_llm_is_ours_about_zero_where_rows_suffice(shape: tuple[int, int], of_input: bool, seed: int) -> None:
    rows, weight = rows_and_weight(shape, seed)
    theirs = svd_llm(weight, evidence(rows, weight))
    ours = spectrum(weight, moments(rows if of_input else rows @ weight, of_input=of_input), centred=False)
    assert theirs.damping == ours.damping == 0
    for rank in range(1, min(shape) + 1):
        np.testing.assert_allclose(replaced(weight, theirs, rank), replaced(weight, ours, rank), rtol=0, atol=ROUNDING)
    # What the lift adds to an energy: 1e-13 · λ_max · ‖W‖², and the whole energy is at least a tenth of λ_max ‖W‖² / k.
    np.testing.assert_allclose(theirs.values, ours.values, rtol=0, atol=1e-13 * 10 * min(shape) * ours.energy)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_afm_is_ours_about_the_mean(shape: tuple[int, int], seed: int) -> None:
    rows, weight = rows_and_weight(shape, seed)
    theirs = afm(weight, evidence(rows, weight))
    ours = spectrum(weight, moments(rows, of_input=True), centred=True)
    for rank in range(1, min(shape) + 1):
        np.testing.assert_allclose(replaced(weight, theirs, rank), replaced(weight, ours, rank), rtol=0, atol=ROUNDING)
        shifts = [factorise(weight, basis, rank, dtype=np.float64).shifts for basis in (theirs, ours)]
        np.testing.assert_allclose(*(shift[0] for shift in shifts if shift), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("shape", SHAPES)
def test_afm_keeps_the_principal_components_of_the_outputs(shape: tuple[int, int]) -> None:
    rows, weight = rows_and_weight(shape, 3)
    outputs, bias = rows @ weight, np.random.default_rng(4).standard_normal(shape[1])
    factors = factorise(weight, afm(weight, evidence(rows, weight)), 5, dtype=np.float64)
    mean = (outputs + bias).mean(axis=0)
    _, _, right = linalg.svd(outputs + bias - mean, full_matrices=False)
    expected = (outputs + bias - mean) @ right[:5].T @ right[:5] + mean
    assert factors.shifts is not None
    found = rows @ factors.down @ factors.up + bias + factors.shifts[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=100 * ROUNDING)  # rows are some tens long


@pytest.mark.parametrize("shape", SHAPES)
def test_scaled_bases_are_those_of_their_papers(shape: tuple[int, int]) -> None:
    rows, weight = rows_and_weight(shape, 5)
    seen = evidence(rows, weight)
    cholesky = np.linalg.cholesky(rows.T @ rows).T
    scales = np.diag(np.abs(rows).mean(axis=0) ** 0.5 + 1e-6)
    for rival, scale in ((svd_llm, cholesky), (asvd, scales)):
        left, singular, right = np.linalg.svd(scale @ weight, full_matrices=False)
        for rank in (1, 4, min(shape)):
            expected = np.linalg.inv(scale) @ (left[:, :rank] * singular[:rank]) @ right[:rank]
            np.testing.assert_allclose(replaced(weight, rival(weight, seen), rank), expected, rtol=0, atol=ROUNDING)


def test_asvd_of_equal_activations_is_plain_svd() -> None:
    rows, weight = rows_and_weight((12, 20), 6)
    seen = evidence(np.where(rows > 0, 2.0, -2.0), weight)
    for rank in range(1, 13):
        found, expected = (replaced(weight, rival(weight, seen), rank) for rival in (asvd, plain_svd))
        np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)


def test_of_the_four_svd_llm_loses_least_about_zero_and_afm_about_the_mean() -> None:
    rows, weight = rows_and_weight((20, 12), 7)
    seen = evidence(rows, weight)
    lost, varied = {}, {}
    for name, rival in RIVALS.items():
        away = rows @ (weight - replaced(weight, rival(weight, seen), 4))
        lost[name], varied[name] = float((away**2).sum()), float(((away - away.mean(axis=0)) ** 2).sum())
    assert min(lost, key=lost.__getitem__) == "SVD-LLM"
    assert min(varied, key=varied.__getitem__) == "AFM"


def test_cholesky_is_damped_only_where_it_fails() -> None:
    rows, _ = rows_and_weight((12, 20), 8)
    gram = rows.T @ rows
    lower, added = whitening(gram)
    assert added == 0
    np.testing.assert_allclose(lower @ lower.T, gram, rtol=0, atol=1e-12 * np.abs(gram).max())
    dead = gram.copy()
    dead[3] = dead[:, 3] = 0
    lower, added = whitening(dead - 1e-3 * np.eye(12))  # the smallest eigenvalue is -1e-3, as rounding may leave it
    assert added == pytest.approx(1e-3 + 1e-6, rel=1e-6)  # eigvalsh knows it to 1e-16 of the largest, about 1e4
    expected = dead + 1e-6 * np.eye(12)
    np.testing.assert_allclose(lower @ lower.T, expected, rtol=0, atol=1e-12 * np.abs(gram).max())


def test_svd_llm_with_a_dead_feature_still_loses_nothing_at_full_rank() -> None:
    rows, weight = rows_and_weight((12, 20), 9)
    rows[:, 3] = 0
    basis = svd_llm(weight, evidence(rows, weight))
    assert basis.damping > 0
    # The added 1e-6 is 1e-10 of the largest eigenvalue: the dead direction of V is known to sqrt(1e-10) · 1e-16 · 1e10.
    np.testing.assert_allclose(rows @ replaced(weight, basis, 12), rows @ weight, rtol=0, atol=1e-8)


def transformer_like(folder: Path) -> Path:
    """Write a model of two layers over (batch, tokens, 12), padding named by `mask`, and a last one left out."""
    body = """
    g (float[N,T,12] x, int64[N,T] mask) => (float[N,T,6] y) {
      [fc1] h = MatMul(x, w1)
      [bias1] hb = Add(h, b1)
      [act] a = Tanh(hb)
      [fc2] z = MatMul(a, w2)
      [head] v = MatMul(z, w3)
      m = Cast<to=1>(mask)
      axes = Constant<value_ints=[2]>()
      wide = Unsqueeze(m, axes)
      y = Mul(v, wide)
    }
    """
    weights = {"w1": gaussian(12, 20), "b1": gaussian(20, seed=1, scale=0.3), "w2": gaussian(20, 8, seed=2)}
    return save(build(body, weights | {"w3": gaussian(8, 6, seed=3)}), folder / "model.onnx")


def padded_samples(folder: Path) -> dict[str, NDArray[np.generic]]:
    """Write 200 samples of 10 tokens, of which some are padding that would be seen."""
    x = low_rank_rows(2000, 12, 12, seed=4, offset=0.5).reshape(200, 10, 12)
    mask = (np.arange(10) < np.random.default_rng(5).integers(3, 11, (200, 1))).astype(np.int64)
    samples = {"x": np.where(mask[:, :, None] > 0, x, np.float32(30)), "mask": mask}
    np.savez(folder / "data.npz", **samples)
    return samples


INCLUDE = ("fc*",)


def test_evidence_is_of_the_calibration_rows_that_are_no_padding(tmp_path: Path) -> None:
    samples = padded_samples(tmp_path)
    options = Options(mask="mask", include=INCLUDE, row_stride=1, holdout=0.2)
    model, scan = open_model(transformer_like(tmp_path), options)
    found = collect_evidence(model, scan, tmp_path / "data.npz", options)
    assert list(found) == ["fc1", "fc2"]
    first = found["fc1"]
    assert first.inputs.count == first.outputs.count < 0.85 * samples["mask"].sum()
    assert (first.mean_absolute < 5).all()
    # E|x| and the moments are of the same rows: no mean exceeds it, and no root mean square lies below it.
    assert (np.abs(first.inputs.means[0]) <= first.mean_absolute).all()
    assert (first.mean_absolute <= np.sqrt(np.diag(first.inputs.second))).all()
    # Both sides saw the same rows, summed in float32: a few hundred roundings of 6e-8, each of terms of size 1.
    weight = gaussian(12, 20).astype(np.float64)
    np.testing.assert_allclose(first.outputs.means[0], first.inputs.means[0] @ weight, rtol=0, atol=1e-5)
    np.testing.assert_allclose(first.outputs.second, weight.T @ first.inputs.second @ weight, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", list(RIVALS))
def test_a_rival_is_written_at_the_plans_ranks(tmp_path: Path, name: str) -> None:
    samples = padded_samples(tmp_path)
    options = Options(mask="mask", include=INCLUDE)
    path = transformer_like(tmp_path)
    model, scan = open_model(path, options)
    bases = rival_bases(model, scan, collect_evidence(model, scan, tmp_path / "data.npz", options), RIVALS[name])
    lines = (SiteRank("fc1", 12, 20, 4, 0.0), SiteRank("fc2", 20, 8, None, 0.0))
    plan = RankPlan(model.digest, "a test", 0, 0, lines)
    target = fold_with(path, plan, bases, tmp_path / "folded.onnx", include=INCLUDE)
    factors = factorise(gaussian(12, 20).astype(np.float64), bases["fc1"], 4, dtype=np.float64)
    shift = factors.shifts[0] if factors.shifts else 0.0
    hidden = np.tanh(samples["x"] @ factors.down @ factors.up + gaussian(20, seed=1, scale=0.3) + shift)
    expected = hidden @ gaussian(20, 8, seed=2) @ gaussian(8, 6, seed=3) * samples["mask"][:, :, None]
    # Float32 products of numbers near 1 (padding is masked away): some ten roundings of 6e-8.
    np.testing.assert_allclose(run(target, samples)[0], expected, rtol=0, atol=5e-6)


def test_a_plan_of_other_sites_is_refused(tmp_path: Path) -> None:
    plan = RankPlan("", "a test", 0, 0, (SiteRank("head", 8, 6, 2, 0.0),))
    with pytest.raises(ValueError, match="no site or no basis for 'head'"):
        fold_with(transformer_like(tmp_path), plan, {}, tmp_path / "folded.onnx", include=INCLUDE)


def test_evidence_of_a_convolution_is_refused(tmp_path: Path) -> None:
    body = "g (float[N,8,5,5] x) => (float[N,8,5,5] y) { [c] y = Conv<pads=[1, 1, 1, 1]>(x, w) }"
    path = save(build(body, {"w": gaussian(8, 8, 3, 3)}), tmp_path / "model.onnx")
    model, scan = open_model(path, Options())
    with pytest.raises(SystemExit, match="c: the rivals are written for plain MatMul and Gemm"):
        collect_evidence(model, scan, tmp_path / "none.npz", Options())
