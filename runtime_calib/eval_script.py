"""A user's own measure of a model, from a Python script."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib.data_script import UserCode, importable

_MODULE = "rankfold_eval_script"


def script_evaluate(path: Path) -> Callable[[Callable[[Any], Any]], object]:
    """Run the script and return its `evaluate(predict)`, to be called once per model.

    It runs as the user's own code, with all of the user's rights; what it prints goes to stderr.

    Args:
        path: The script. `predict` takes a feed dict and gives the outputs by name.

    Raises:
        CalibrationDataError: There is no `evaluate`, or the script raised, then or when it is called; with file, line
            and the original error.
    """
    if not path.is_file():
        raise CalibrationDataError(f"{path}: no such script, nor the name of a score; give one with evaluate(predict)")
    guard = UserCode(path)
    folder = path.resolve().parent
    with importable(folder), guard:
        evaluate = runpy.run_path(str(path), run_name=_MODULE).get("evaluate")
    if not callable(evaluate):
        raise CalibrationDataError(f"{path}: has no function evaluate(predict); define one that gives a score")

    def guarded(predict: Callable[[Any], Any]) -> object:
        def outside(feed: object) -> object:
            with guard.paused():
                return predict(feed)

        with importable(folder), guard:
            return evaluate(outside)

    return guarded
