"""Scores of a model: what a user's function may give, the interval of a drop, and budgets that go by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_examples import fill_folder
from numpy.typing import NDArray

from rankfold.budgets import Evaluation
from rankfold.errors import OptionsError, PlanError
from rankfold.evaluation import MaxDrop, Score, compared, evaluation_warning, scored
from rankfold.labelled import macro_f1, spearman
from rankfold.options import Options
from rankfold.pipeline import Result, compress
from rankfold.stated import Stated, searches, stated_budget
from rankfold.values import Feed

ROWS = np.random.default_rng(0).standard_normal((12, 32)).astype(np.float32)


def nothing(feed: Feed) -> dict[str, NDArray[np.generic]]:
    raise AssertionError(f"predicted {feed}")


@pytest.mark.parametrize("given", [92.5, np.float32(92.5), np.array(92.5), 92])
def test_a_number_is_a_score_without_an_interval(given: object) -> None:
    found = scored(lambda _: given, nothing)
    assert (found.value, found.rows) == (float(np.asarray(given)), None)
    assert compared(found, found, limit=1, seed=0).interval is None


def test_the_mean_of_single_scores_counts() -> None:
    found = scored(lambda _: [1, 0, 1, 1], nothing)
    assert (found.value, found.rows) == (0.75, 4)
    assert found.of_rows is not None
    assert found.of_rows(np.array([1, 1, 0, 0])) == 0.5


def test_a_score_that_is_no_number_is_the_worst() -> None:
    assert scored(lambda _: float("nan"), nothing).value == -np.inf


@pytest.mark.parametrize("given", ["much", None, np.ones((2, 2)), [], {"accuracy": 1.0}])
def test_what_is_no_score_is_refused(given: object) -> None:
    with pytest.raises(OptionsError, match="expected one number, or an array of one number per sample"):
        scored(lambda _: given, nothing)


def test_the_interval_is_paired_and_holds_the_drop() -> None:
    rng = np.random.default_rng(1)
    right = rng.random(1000) < 0.9
    worse = right & (rng.random(1000) < 0.98)
    before, after = (scored(lambda _, part=part: 100.0 * part, nothing) for part in (right, worse))
    found = compared(before, after, limit=1.0, seed=0)
    assert found.interval is not None
    # of n paired 0/1 differences with mean p the deviation is √(p(1-p)/n); 1000 resamples know ends to a tenth
    share = found.drop / 100
    half = 100 * 1.96 * np.sqrt(share * (1 - share) / 1000)
    assert found.interval == pytest.approx((found.drop - half, found.drop + half), abs=0.15 * half)
    assert compared(before, after, limit=1.0, seed=0) == found


def test_scores_of_other_samples_are_refused() -> None:
    with pytest.raises(OptionsError, match="gave 2 scores for the original and 3 for a candidate"):
        compared(Score(1.0, 2), Score(1.0, 3), limit=1.0, seed=0)


@pytest.mark.parametrize(("interval", "told"), [((0.0, 0.4), False), ((-0.2, 0.4), True), (None, False)])
def test_too_few_samples_for_the_limit_are_told(interval: tuple[float, float] | None, told: bool) -> None:
    warning = evaluation_warning(Evaluation(90.0, 89.9, 0.2, 500, interval))
    assert (warning is not None) == told
    if warning:
        assert "500 labelled samples are too few to tell a drop of 0.2: it is known to ± 0.3" in warning


def test_macro_f1_is_the_mean_over_classes() -> None:
    # class 0: 1 hit of 1 answer and 2 labels, 2/3; class 1: 1 hit of 2 answers and 1 label, 2/3; class 2: 0 of 1 label
    assert macro_f1(np.array([0, 1, 1, 3]), np.array([0, 0, 1, 2])) == pytest.approx((2 / 3 + 2 / 3 + 0 + 0) / 4)


def test_spearman_sees_order_alone_with_ties_at_their_mean() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(values, np.exp(values)) == pytest.approx(1)
    assert spearman(values, -values) == pytest.approx(-1)
    assert spearman(values, np.ones(4)) == 0
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / √(4.5 · 5)
    assert spearman(np.array([1.0, 2.0, 2.0, 4.0]), values) == pytest.approx(4.5 / np.sqrt(22.5))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fill_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Agreement:
    """Scores agreement with the original's answers in percent, sample by sample, and counts its calls."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self.rows, self.labels, self.calls = rows, np.zeros(0), 0

    def __call__(self, predict) -> NDArray[np.float64]:  # type: ignore[no-untyped-def]
        answers = predict({"x": self.rows})["y"].argmax(axis=1)
        self.labels = answers if self.calls == 0 else self.labels  # the original is asked first
        self.calls += 1
        return 100.0 * (answers == self.labels)


def small(folder: Path, drop: float) -> tuple[Result, Agreement]:
    with np.load(folder / "data.npz") as archive:
        evaluate = Agreement(archive["x"])
    options = Options(latency_rounds=0)
    return compress(
        "model.onnx", "data.npz", max_drop=drop, evaluate=evaluate, output="out.onnx", options=options
    ), evaluate


def test_the_written_model_is_scored_by_itself_and_that_is_reported(folder: Path) -> None:
    result, evaluate = small(folder, 4.0)
    report = result.report
    assert report.plan.kept < 1
    assert report.answer is not None
    assert report.answer.found <= 4.0
    assert evaluate.calls == 1 + report.answer.measured + 1
    assert report.evaluation is not None
    assert (report.evaluation.before, report.evaluation.rows) == (100.0, 200)
    assert report.evaluation.drop == pytest.approx(report.answer.found, abs=0.5)  # one sample of 200 may tip over
    assert report.evaluation.interval is not None
    assert report.answer.next_found is None or report.answer.next_kept is not None


def test_a_larger_drop_gives_a_smaller_model(folder: Path) -> None:
    assert small(folder, 60.0)[0].plan.kept < small(folder, 1.0)[0].plan.kept


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "0 budgets were given; expected exactly one of keep, energy, plan, max_error"),
        ({"keep": 0.5, "speedup": 2.0}, "2 budgets were given"),
        ({"max_drop": 1.0}, "max_drop and evaluate belong together"),
        ({"evaluate": len, "keep": 0.5}, "max_drop and evaluate belong together"),
        ({"max_drop": 1.0, "evaluate": 3}, "evaluate is a int; expected a function"),
        ({"max_drop": -1.0, "evaluate": len}, "max_drop is -1.0"),
        ({"max_error": 0.0}, "max_error is 0.0; expected a relative L2 above 0"),
        ({"max_error": True}, "max_error is True"),
        ({"speedup": 1.0}, "speedup is 1.0; expected a factor above 1"),
        ({"keep": 1.5}, "the share is 1.5"),
        ({"plan": "plan.json"}, "the plan is a str"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        stated_budget(Stated(**given))  # type: ignore[arg-type]


def test_targets_are_searched_for_whatever_the_allocation() -> None:
    uniform = Options(allocation="uniform")
    assert searches(MaxDrop(1.0, len), uniform)
    assert searches(stated_budget(Stated(max_error=0.1)), uniform)
    assert not searches(stated_budget(Stated(speedup=2.0)), uniform)
    assert searches(stated_budget(Stated(speedup=2.0)), Options())


@pytest.mark.usefixtures("folder")
def test_a_score_that_is_not_finite_for_the_original_is_refused() -> None:
    with pytest.raises(PlanError, match="evaluate gives no finite score for the original"):
        compress("model.onnx", "data.npz", max_drop=1.0, evaluate=lambda _: float("nan"), output="out.onnx")


@pytest.mark.usefixtures("folder")
def test_a_score_that_cannot_be_told_is_refused_before_any_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankfold.pipeline.capture", lambda *_, **__: pytest.fail("data was collected"))
    with pytest.raises(OptionsError, match="evaluate gave 'good'"):
        compress("model.onnx", "data.npz", max_drop=1.0, evaluate=lambda _: "good", output="out.onnx")
