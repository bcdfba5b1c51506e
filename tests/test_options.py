"""Settings that make no sense are refused by themselves, before anything is opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rankfold import pipeline
from rankfold.errors import OptionsError, PlanError
from rankfold.options import Options, check_options, is_number

SENSELESS = [
    ("batch_size", 0, "a whole number from 1 on"),
    ("batch_size", 2.5, "a whole number from 1 on"),
    ("batch_size", True, "a whole number from 1 on"),
    ("batch_size", "8", "a whole number from 1 on"),
    ("seed", -1, "a whole number from 0 on"),
    ("seed", None, "a whole number from 0 on"),
    ("latency_rounds", -1, "a whole number from 0 on"),
    ("row_stride", 0, "a whole number from 1 on"),
    ("holdout", 0.0, "a number above 0 and below 1, such as 0.2"),
    ("holdout", 1.0, "a number above 0 and below 1, such as 0.2"),
    ("holdout", float("nan"), "a number above 0 and below 1, such as 0.2"),
    ("holdout", "a", "a number above 0 and below 1, such as 0.2"),
    ("provider", "tpu", "'cpu' or 'cuda'"),
    ("provider", None, "'cpu' or 'cuda'"),
    ("exclude", "fc1", "a tuple of texts, such as"),
    ("exclude", None, "a tuple of texts, such as"),
    ("outputs", (1,), "a tuple of texts, such as"),
    ("mask", 3, "the name of a model input"),
    ("held_out_to", "h.npz", "a pathlib.Path"),
]


@pytest.mark.parametrize(("name", "value", "expected"), SENSELESS)
def test_what_makes_no_sense_is_refused(name: str, value: object, expected: str, tmp_path: Path) -> None:
    options = Options(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(OptionsError) as found:
        check_options(options)
    assert str(found.value).startswith(f"option {name} is {value!r}; expected {expected}")
    nothing = tmp_path / "none.onnx"
    stages = [
        lambda: pipeline.analyze(nothing, options=options),
        lambda: pipeline.calibrate(nothing, "none.npz", options=options),
        lambda: pipeline.compress(nothing, "none.npz", keep=0.5, options=options),
        lambda: pipeline.validate(nothing, nothing, "none.npz", options=options),
        lambda: pipeline.bench(nothing, nothing, "none.npz", options=options),
    ]
    for stage in stages:
        with pytest.raises(OptionsError, match=f"option {name} is"):
            stage()


def test_numpy_numbers_are_numbers(tmp_path: Path) -> None:
    check_options(Options(batch_size=np.int64(4), seed=np.uint8(0), holdout=np.float32(0.5), held_out_to=tmp_path))  # type: ignore[arg-type]
    assert is_number(np.float16(1))
    assert not is_number(True)
    assert not is_number("1")
    assert not is_number(1j)


@pytest.mark.parametrize("share", ["a", True, None, 1j])
def test_a_share_that_is_no_number_is_refused(share: object) -> None:
    if share is None:
        with pytest.raises(PlanError, match="0 budgets were given"):
            pipeline.compress("none.onnx", [], keep=share)  # type: ignore[arg-type]
        return
    with pytest.raises(PlanError, match="expected a number above 0 and at most 1"):
        pipeline.compress("none.onnx", [], keep=share)  # type: ignore[arg-type]


def test_a_plan_that_is_none_is_refused() -> None:
    with pytest.raises(PlanError, match="the plan is a str; expected a RankPlan, as make_plan returns it"):
        pipeline.compress("none.onnx", [], plan="plan.json")  # type: ignore[arg-type]
