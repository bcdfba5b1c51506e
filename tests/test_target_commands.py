"""Targets on the command line: which option is the budget, what is told, and exit codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from command_examples import CLASSES, COMPRESS, FEATURES, HIDDEN, fill_folder, parsed, run
from report_examples import REPORT

from rankfold.budgets import Answer, Evaluation
from rankfold.errors import PlanError
from rankfold.options import Options
from rankfold.pipeline import compress
from rankfold.tools.report_json import report_to_json
from rankfold.tools.report_markdown import report_to_markdown
from rankfold.tools.target_text import target_lines

SCORE = ("--max-drop", "4", "--eval", "accuracy", "--eval-data", "labelled.npz")


@pytest.fixture(autouse=True)
def folder(working_folder: Path) -> Path:
    fill_folder(working_folder)
    with np.load("data.npz") as archive:
        rows = archive["x"]
    answers = onnxruntime.InferenceSession("model.onnx").run(None, {"x": rows})[0].argmax(axis=1)
    np.savez("labelled.npz", x=rows, labels=answers)
    return working_folder


def reported(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    run(*COMPRESS, *words, "--json", "--quiet", code=code)
    return parsed(capsys.readouterr().out)


def test_an_error_alone_is_the_budget_and_beside_one_it_is_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    found = reported(capsys, "--max-error", "0.3")
    assert found["requested"] == "max error 0.3"
    assert found["target"]["found"] <= 0.3
    assert found["kept"] < 1
    assert found["limits"] == []
    found = reported(capsys, "--keep", "0.5", "--max-error", "1e-9", code=1)
    assert found["target"] is None
    assert [limit["option"] for limit in found["limits"]] == ["--max-error"]


def test_an_error_as_the_target_ends_well_whatever_the_other_rows_say(capsys: pytest.CaptureFixture[str]) -> None:
    found = reported(capsys, "--max-error", "0.3")
    run(*COMPRESS, "--max-error", "0.3", "--quiet")
    output = capsys.readouterr().out
    assert f"it is {found['target']['found']:.4g} on the held-out samples that chose the plan" in output
    assert f"and {found['outputs'][0]['relative_l2']:.4g} on those that decided nothing" in output


def test_a_speedup_counts_flops(capsys: pytest.CaptureFixture[str]) -> None:
    found = reported(capsys, "--speedup", "1.4")
    # one row per sample: parameters and FLOPs go together
    before, after = found["linear_parameters"]["before"], found["linear_parameters"]["after"]
    assert before == FEATURES * HIDDEN + HIDDEN * CLASSES
    assert found["target"]["found"] == pytest.approx(before / after)
    assert found["target"]["found"] >= 1.4
    run(*COMPRESS, "--speedup", "1.4", "--quiet")
    assert "in FLOPs, which are counted, not timed" in capsys.readouterr().out
    run(*COMPRESS, "--speedup", "100", code=3)
    assert (
        "a speed-up of 100 in FLOPs cannot be reached: with every layer at its smallest rank" in capsys.readouterr().err
    )


def test_a_drop_is_scored_on_labelled_samples(capsys: pytest.CaptureFixture[str]) -> None:
    found = reported(capsys, *SCORE, "--report", "report")
    assert found["evaluation"]["rows"] == 200
    assert found["evaluation"]["drop"] == found["evaluation"]["before"] - found["evaluation"]["after"] <= 4.5
    low, high = found["evaluation"]["interval"]
    assert low <= found["evaluation"]["drop"] <= high
    page = Path("report/report.md").read_text()
    assert "Score of the written model on 200 samples: " in page
    Path("score.py").write_text(
        "import numpy as np\n"
        "seen = np.load('labelled.npz')\n"
        "def evaluate(predict):\n"
        "    return 100.0 * (predict({'x': seen['x']})['y'].argmax(axis=1) == seen['labels'])\n"
    )
    by_script = reported(capsys, "--max-drop", "4", "--eval", "score.py")
    assert {name: by_script[name] for name in ("kept", "evaluation", "target")} == {
        name: found[name] for name in ("kept", "evaluation", "target")
    }


def test_what_it_will_cost_is_told_in_advance(capsys: pytest.CaptureFixture[str]) -> None:
    run(*COMPRESS, *SCORE)
    assert "evaluating plans on 200 samples each, at most (20)" in capsys.readouterr().err
    run(*COMPRESS, "--max-error", "0.3")
    assert "measuring plans on 12 samples each, at most (48)" in capsys.readouterr().err
    run(*COMPRESS, "--keep", "0.5", "--forwards", "10")
    assert "samples are run at most" in capsys.readouterr().err


WRONG = [
    (("--max-drop", "1"), "--max-drop and --eval belong together"),
    (("--keep", "0.5", "--eval", "accuracy"), "--max-drop and --eval belong together"),
    (("--keep", "0.5", "--speedup", "2"), "found --keep and --speedup"),
    ((), "found none"),
    (("--max-drop", "1", "--eval", "accuracy"), "--eval accuracy needs --eval-data"),
    (("--max-drop", "1", "--eval", "s.py", "--eval-data", "l.npz"), "not with a script"),
    (("--speedup", "1"), "must be above 1"),
    (("--speedup", "inf"), "must be above 1, and finite"),
    (("--max-drop", "inf", "--eval", "accuracy"), "must be finite"),
    (("--max-error", "inf"), "--max-error inf allows anything"),
    (("--max-error", "0"), "--max-error 0 allows no fold"),
    (("--keep", "0.5", "--output-weight", "y"), "expected NAME=W"),
    (("--keep", "0.5", "--output-weight", "y=-1"), "expected NAME=W"),
    (("--keep", "0.5", "--forwards", "0"), "must be above 0"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_options_that_do_not_fit_together_are_usage_errors(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*COMPRESS, *words, code=2)
    assert message in capsys.readouterr().err


def test_options_of_the_search_reach_it(capsys: pytest.CaptureFixture[str]) -> None:
    run(*COMPRESS, "--keep", "0.5", "--output-weight", "z=2", code=3)
    assert "a weight is given for 'z'" in capsys.readouterr().err
    run(*COMPRESS, "--keep", "0.5", "--allocation", "uniform")
    assert "searching" not in capsys.readouterr().err


def test_a_target_without_samples_to_choose_on_is_refused() -> None:
    rows = np.random.default_rng(0).standard_normal((5, FEATURES)).astype(np.float32)
    with pytest.raises(PlanError, match="the limit cannot be met: there are too few held-out samples"):
        compress("model.onnx", {"x": rows}, max_error=0.1, options=Options(latency_rounds=0))


def test_a_report_says_what_one_step_further_would_have_cost() -> None:
    answer = Answer("max_drop", 0.5, 0.25, 7, next_kept=0.25, next_found=0.75)
    report = replace(REPORT, answer=answer, evaluation=Evaluation(90.0, 89.5, 0.5, 400, (0.25, 0.75)))
    assert target_lines(report) == (
        "Target: a score at most 0.5 lower; with the plan chosen it was 0.25 lower. 7 plans were measured.",
        "One step further: 25.00 % kept would have been 0.75 lower.",
        (
            "Score of the written model on 400 samples: 89.5, of the original 90: 0.5 lower (95 % interval of the"
            " drop: 0.25 to 0.75)."
        ),
    )
    for line in target_lines(report):
        assert f"- {line}\n" in report_to_markdown(report)
    assert report_to_json(report)["target"]["next_found"] == 0.75
    assert report_to_json(REPORT)["evaluation"] is None
    assert target_lines(REPORT) == ()
