"""What the tests of checkpoints share: a small transformer, data for it, and a user who breaks off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from benchmarks.synthetic_transformer import INPUT, Shape, token_ids, write_transformer

from rankfold.pipeline import Options
from rankfold.runtime_calib import checkpoint
from rankfold.values import Feed

SHAPE = Shape(width=64, heads=2, layers=1, vocabulary=300)
IDS = token_ids(SHAPE, samples=40, tokens=12)
TWO_SWEEPS, ONE_SWEEP = 150_000, 1 << 24


def write_model(folder: Path) -> Path:
    write_transformer(folder / "model.onnx", SHAPE)
    return folder / "model.onnx"


def save_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save after every batch, whatever saving costs."""
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "_COST", 0.0)


def options_for(folder: Path, memory: int = TWO_SWEEPS) -> Options:
    return Options(memory_bytes=memory, checkpoint=folder / "checkpoint", latency_rounds=0, row_stride=2, batch_size=4)


def interrupted_after(samples: int | None) -> Iterator[Feed]:
    """Yield sample after sample, and break off like a user would."""
    for number, part in enumerate(np.split(IDS, len(IDS))):
        if number == samples:
            raise KeyboardInterrupt
        yield {INPUT: part}
