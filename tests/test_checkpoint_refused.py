"""A checkpoint that is not of this run, or is damaged, is refused and says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.synthetic_transformer import INPUT, write_transformer
from checkpoint_examples import IDS, SHAPE, interrupted_after, options_for, save_often, write_model

from rankfold.errors import CalibrationDataError
from rankfold.pipeline import Options, calibrate


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def unfinished(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    save_often(monkeypatch)
    options = options_for(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, interrupted_after(30), options=options)
    return options


CHANGES = {
    "seed": ("seed", 1),
    "batch size": ("batch_size", 2),
    "layers or first sample": ("row_stride", 3),
    "memory bytes": ("memory_bytes", 9),
}


@pytest.mark.parametrize("named", CHANGES)
def test_a_checkpoint_of_other_settings_is_refused(named: str, unfinished: Options, model: Path) -> None:
    field, value = CHANGES[named]
    other = replace(unfinished, **{field: value})  # type: ignore[arg-type]
    with pytest.raises(CalibrationDataError, match=f"is the checkpoint of another run: not the same {named}; repeat"):
        calibrate(model, interrupted_after(None), options=other)


def test_a_checkpoint_of_another_model_or_file_is_refused(unfinished: Options, model: Path, tmp_path: Path) -> None:
    write_transformer(tmp_path / "other.onnx", SHAPE, seed=5)
    with pytest.raises(CalibrationDataError, match="not the same layers or first sample, model;"):
        calibrate(tmp_path / "other.onnx", interrupted_after(None), options=unfinished)
    np.savez(tmp_path / "data.npz", **{INPUT: IDS})
    with pytest.raises(CalibrationDataError, match="not the same data;"):
        calibrate(model, tmp_path / "data.npz", options=unfinished)


@pytest.mark.parametrize("kind", ["changed", "shorter"])
def test_other_data_of_the_same_kind_is_refused(kind: str, unfinished: Options, model: Path) -> None:
    changed = (IDS + 1) % SHAPE.vocabulary
    changed[0] = IDS[0]  # what the layers look like is known of the first sample
    given = {"changed": changed, "shorter": IDS[:12]}[kind]
    feeds = ({INPUT: part} for part in np.split(given, len(given)))
    with pytest.raises(CalibrationDataError, match="the data is not what the checkpoint was made of"):
        calibrate(model, feeds, options=unfinished)


@pytest.mark.parametrize("name", ["run.json", "sums.npz"])
def test_a_damaged_checkpoint_is_told(name: str, unfinished: Options, model: Path) -> None:
    assert unfinished.checkpoint is not None
    (unfinished.checkpoint / name).write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(CalibrationDataError, match="the checkpoint cannot be read"):
        calibrate(model, interrupted_after(None), options=unfinished)
