"""Scores that have a name, of labelled data, and scores that a script gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_examples import fill_folder
from numpy.typing import NDArray

from rankfold.errors import CalibrationDataError, OptionsError
from rankfold.evaluation import scored
from rankfold.labelled import labelled_evaluate
from rankfold.runtime_calib.eval_script import script_evaluate
from rankfold.values import Feed

ROWS = np.random.default_rng(0).standard_normal((12, 32)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fill_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def columns(feed: Feed) -> dict[str, NDArray[np.generic]]:
    """Predict the sample's own values, and their first."""
    return {"all": feed["x"], "first": feed["x"][:, :1]}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("score", "output", "labels", "expected"),
    [
        ("accuracy", None, np.where(np.arange(12) < 3, 0, ROWS.argmax(1)), None),
        ("f1", "all", ROWS.argmax(1), 100.0),
        ("spearman", "first", ROWS[:, 0] ** 3, 100.0),
        ("cosine", None, 2 * ROWS, 100.0),
        ("cosine", None, -ROWS, -100.0),
    ],
)
def test_named_scores_are_in_percent(
    score: str, output: str | None, labels: NDArray[np.generic], expected: float | None
) -> None:
    np.savez("labelled.npz", x=ROWS, labels=labels)
    evaluate = labelled_evaluate("model.onnx", "labelled.npz", score=score, output=output, batch_size=5)  # type: ignore[arg-type]
    found = scored(evaluate, columns)
    wanted = 100 * float(np.mean(labels == ROWS.argmax(1))) if expected is None else expected
    assert found.value == pytest.approx(wanted)
    assert found.rows == 12
    assert found.of_rows is not None
    assert found.of_rows(np.arange(12)) == found.value


@pytest.mark.usefixtures("folder")
def test_labels_that_do_not_fit_are_refused() -> None:
    np.savez("labelled.npz", x=ROWS, labels=ROWS[:, 0])
    with pytest.raises(OptionsError, match=r"accuracy cannot be told from an output of shape \(12, 32\)"):
        scored(labelled_evaluate("model.onnx", "labelled.npz", score="accuracy"), columns)
    with pytest.raises(OptionsError, match="there is no output 'none' to score"):
        scored(labelled_evaluate("model.onnx", "labelled.npz", score="cosine", output="none"), columns)
    np.savez("labelled.npz", x=ROWS, labels=np.zeros(3, np.int64))
    with pytest.raises(CalibrationDataError, match="has 3 labels for 12 samples"):
        scored(labelled_evaluate("model.onnx", "labelled.npz", score="accuracy"), columns)
    np.savez("labelled.npz", x=ROWS, labels=np.zeros(13, np.int64))
    with pytest.raises(CalibrationDataError, match="has 13 labels for 12 samples; give one for each"):
        scored(labelled_evaluate("model.onnx", "labelled.npz", score="accuracy"), columns)
    for wrong, said in (([-1] + [0] * 11, "from -1 to 0"), ([0] * 11 + [32], "from 0 to 32")):
        np.savez("labelled.npz", x=ROWS, labels=np.array(wrong))
        for score in ("accuracy", "f1"):
            with pytest.raises(CalibrationDataError, match=f"labels run {said}, and the output .* 32 classes; number"):
                scored(labelled_evaluate("model.onnx", "labelled.npz", score=score), columns)  # type: ignore[arg-type]
    with pytest.raises(CalibrationDataError, match="no labels can be read"):
        labelled_evaluate("model.onnx", "data.npz", score="accuracy")


@pytest.mark.usefixtures("folder")
def test_a_script_scores_and_its_prints_stay_off_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    Path("beside.py").write_text("WORTH = 2.0\n")
    Path("score.py").write_text(
        "import numpy as np\nfrom beside import WORTH\nprint('made')\n"
        "def evaluate(predict):\n    print('asked')\n    return WORTH * predict({'x': np.ones((1, 2))})['all'].sum()\n"
    )
    assert scored(script_evaluate(Path("score.py")), columns).value == 4.0
    assert capsys.readouterr() == ("", "made\nasked\n")


@pytest.mark.usefixtures("folder")
def test_a_script_changes_its_own_working_folder_alone() -> None:
    home = Path.cwd()
    Path("moves.py").write_text(
        "import os\ndef evaluate(predict):\n    os.chdir('/')\n    predict({})\n    assert os.getcwd() == '/'\n"
        "    return 1.0\n"
    )
    seen: list[Path] = []
    evaluate = script_evaluate(Path("moves.py"))
    for _ in range(2):
        assert scored(evaluate, lambda _: seen.append(Path.cwd()) or {}).value == 1.0
    assert [*seen, Path.cwd()] == [home] * 3


@pytest.mark.usefixtures("folder")
def test_a_script_that_raises_or_lacks_evaluate_is_refused_with_its_line() -> None:
    Path("none.py").write_text("x = 1\n")
    with pytest.raises(CalibrationDataError, match=r"none.py: has no function evaluate\(predict\)"):
        script_evaluate(Path("none.py"))
    Path("bad.py").write_text("def evaluate(predict):\n    return 1 / 0\n")
    with pytest.raises(CalibrationDataError, match=r"bad\.py, line 2: the script raised ZeroDivisionError"):
        scored(script_evaluate(Path("bad.py")), columns)


def test_a_script_that_is_not_there_may_have_been_meant_as_a_score() -> None:
    with pytest.raises(CalibrationDataError, match="acuracy: no such script, nor the name of a score"):
        script_evaluate(Path("acuracy"))
