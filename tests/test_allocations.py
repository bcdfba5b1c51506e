"""Rank plans of the benchmark: one share for all, and one loss for all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.allocations import Ground, normalised_energy_plan, uniform_plan
from onnx_examples import build, gaussian, save

from rankfold import Options
from rankfold.opening import open_model
from rankfold.passes.spectrum import Spectrum

BODY = """
g (float[N,64] x) => (float[N,64] y) {
  [flat] h = MatMul(x, w1)
  a = Relu(h)
  [steep] i = MatMul(a, w2)
  b = Relu(i)
  [wide] j = MatMul(b, w3)
  c = Relu(j)
  [narrow] y = MatMul(c, w4)
}
"""
SHAPES = {"flat": (64, 64), "steep": (64, 64), "wide": (64, 256), "narrow": (256, 64)}


def ground(folder: Path, keep: float) -> Ground:
    weights = {f"w{number}": gaussian(*shape) for number, shape in enumerate(SHAPES.values(), start=1)}
    model, scan = open_model(save(build(BODY, weights), folder / "model.onnx"), Options())
    return Ground(model, scan, keep)


def falling(decay: float) -> Spectrum:
    values = decay ** np.arange(64.0)
    return Spectrum(values, np.eye(64), (np.zeros(64),), centred=False, damping=0.0, rows=100)


SPECTRA = {name: falling(0.8 if name == "steep" else 0.97) for name in SHAPES}


@pytest.mark.parametrize("keep", [0.75, 0.5, 0.33, 0.25])
def test_plans_use_their_budget(tmp_path: Path, keep: float) -> None:
    place = ground(tmp_path, keep)
    for plan in (uniform_plan(place), normalised_energy_plan(place, SPECTRA)):
        assert plan.model_digest == place.model.digest
        assert [line.site for line in plan.sites] == list(SHAPES)
        assert keep - 0.08 < plan.kept <= keep  # the largest step, 8 · 320 of 40,960 parameters, is 6 %
        assert all(line.rank is None or line.rank % 8 == 0 for line in plan.sites)


@pytest.mark.parametrize("keep", [0.6, 0.5, 0.4])
def test_a_uniform_plan_keeps_one_share_of_every_site(tmp_path: Path, keep: float) -> None:
    shares = [line.parameters / line.dense_parameters for line in uniform_plan(ground(tmp_path, keep)).sites]
    assert max(shares) - min(shares) <= 0.25  # a step of eight ranks is a quarter of a square of 64


def test_one_loss_for_all_gives_the_steep_site_fewer_ranks(tmp_path: Path) -> None:
    place = ground(tmp_path, 0.5)
    plan = normalised_energy_plan(place, SPECTRA)
    ranks = {line.site: line.rank for line in plan.sites}
    assert ranks["steep"] is not None
    assert ranks["steep"] < min(rank or 64 for name, rank in ranks.items() if name != "steep")
    for line in plan.sites:
        lost = 0.0 if line.rank is None else SPECTRA[line.site].tails()[line.rank]
        assert line.predicted_error == lost
    # Nothing that still fits would lower the largest loss: that is what decides.
    worst = max(plan.sites, key=lambda line: line.predicted_error)
    step = 8 * (worst.in_features + worst.out_features)
    assert plan.parameters_after + step > place.keep * plan.parameters_before


def test_a_larger_budget_never_loses_more(tmp_path: Path) -> None:
    plans = [normalised_energy_plan(ground(tmp_path, keep), SPECTRA) for keep in (0.3, 0.4, 0.5, 0.6, 0.7)]
    worst = [max(line.predicted_error for line in plan.sites) for plan in plans]
    assert worst == sorted(worst, reverse=True)


def test_everything_stays_dense_where_all_may_be_kept(tmp_path: Path) -> None:
    place = ground(tmp_path, 1.0)
    assert uniform_plan(place).folded == normalised_energy_plan(place, SPECTRA).folded == ()


def test_a_budget_below_the_smallest_ranks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="the smallest ranks together cost 7,168"):  # 8 · (128 + 128 + 320 + 320)
        uniform_plan(ground(tmp_path, 0.1))
