"""Searching for a plan: within the budget, no worse than the plans it is held against, alike in groups and at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from search_examples import LAYERS, WIDTH, chain_data, uneven_chain

from rankfold.choose import MOST_ROUNDS, Study
from rankfold.errors import CalibrationDataError, OptionsError
from rankfold.lab import _parted
from rankfold.passes.allocate import Choice, Curve
from rankfold.pipeline import Options, Result, compress
from rankfold.search import within_region

QUICK = Options(latency_rounds=0)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return uneven_chain(tmp_path_factory.mktemp("deep"))


@pytest.fixture(scope="module")
def found(deep: Path) -> Result:
    return compress(deep, chain_data(), keep=0.5, output=deep.parent / "o.onnx", options=QUICK)


def error(result: Result) -> float:
    return result.report.discrepancy.outputs[0].relative_l2


def test_ranks_go_where_the_output_needs_them(deep: Path, found: Result) -> None:
    uniform = compress(
        deep, chain_data(), keep=0.5, output=deep.parent / "u.onnx", options=replace(QUICK, allocation="uniform")
    )
    assert found.plan.kept <= 0.5
    ranks = {line.site: WIDTH if line.rank is None else line.rank for line in found.plan.sites}
    assert ranks["fc0"] < ranks["fc1"]
    # On rows that decided nothing. The layers' factors differ fifty times: a uniform ratio wastes much.
    assert error(found) < 0.8 * error(uniform)


def test_what_was_tried_is_reported_and_the_best_of_it_chosen(found: Result) -> None:
    tried = found.report.tried
    assert tried[0].name == "uniform"
    (chosen,) = [trial for trial in tried if trial.chosen]
    assert chosen.loss == min(trial.loss for trial in tried)
    assert chosen.kept == found.plan.kept
    assert all(trial.kept <= 0.5 for trial in tried)


def test_the_samples_are_parted(found: Result) -> None:
    report = found.report
    choosing = report.settings["choosing_samples"]
    assert isinstance(choosing, int)
    assert report.calibration_samples == 480
    assert choosing + report.held_out_samples == 120
    assert 0.5 * 120 < choosing < 0.7 * 120


def test_two_searches_give_the_same_bytes(deep: Path, found: Result) -> None:
    again = compress(deep, chain_data(), keep=0.5, output=deep.parent / "again.onnx", options=QUICK)
    assert again.path.read_bytes() == found.path.read_bytes()


def test_masks_in_groups_find_as_good_a_plan(deep: Path, found: Result) -> None:
    little = 3 * 2 * WIDTH * 2 * WIDTH * 4  # bytes: three of the four sites at full rank, twice
    grouped = compress(
        deep, chain_data(), keep=0.5, output=deep.parent / "g.onnx", options=replace(QUICK, memory_bytes=little)
    )
    assert "weighted" in [trial.name for trial in grouped.report.tried]
    assert grouped.plan.kept <= 0.5
    # One round where the masks do not fit together; the first round is the one that finds most.
    assert error(grouped) < 1.2 * error(found)


def test_too_few_samples_to_choose_on_are_told(deep: Path, tmp_path: Path) -> None:
    few = {"x0": chain_data()["x0"][:8]}
    result = compress(deep, few, keep=0.5, output=tmp_path / "o.onnx", options=QUICK)
    assert any("too few held-out samples to choose a plan on" in warning for warning in result.report.warnings)
    assert result.report.tried == ()


def test_weights_of_outputs_are_checked(deep: Path, tmp_path: Path) -> None:
    for weights, message in (({"nothing": 1.0}, "which is no output"), ({f"x{LAYERS}": 0.0}, "every output weighs 0")):
        options = replace(QUICK, weights=weights)
        with pytest.raises(OptionsError, match=message):
            compress(deep, chain_data(), keep=0.5, output=tmp_path / "o.onnx", options=options)
    assert list(tmp_path.iterdir()) == []


def test_rounds_are_what_the_samples_pay_for() -> None:
    curves = tuple(Curve(f"s{n}", (Choice(None, 1, 0.0),)) for n in range(72))
    study = Study(None, None, curves, None, Path(), QUICK)  # type: ignore[arg-type]
    assert study.rounds == MOST_ROUNDS
    assert replace(study, options=replace(QUICK, forwards=25)).rounds == 2
    assert replace(study, options=replace(QUICK, forwards=1)).rounds == 1


def test_a_region_holds_what_lies_about_the_present_choice() -> None:
    curve = Curve("s", (*(Choice(8 * n, 100.0 * n, 1 / n) for n in range(1, 11)), Choice(None, 1200, 0.0)))
    costs = [choice.cost for choice in within_region(curve, curve.choices[4], (0.7, 1.5)).choices]
    assert costs == [400, 500, 600, 700]
    # The neighbours are always there, also where steps are coarse.
    assert [choice.rank for choice in within_region(curve, curve.dense, (0.99, 1.01)).choices] == [80, None]


def test_one_sample_cannot_be_parted() -> None:
    with pytest.raises(CalibrationDataError, match="expected at least 2"):
        _parted([])
