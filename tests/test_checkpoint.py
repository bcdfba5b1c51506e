"""A calibration that was interrupted or killed goes on from where it was saved, and ends with the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.synthetic_transformer import INPUT
from checkpoint_examples import IDS, ONE_SWEEP, TWO_SWEEPS, interrupted_after, options_for, save_often, write_model

from rankfold.pipeline import Options, calibrate, compress, save_calibration
from rankfold.runtime_calib import checkpoint, collect
from rankfold.values import Calibration, Feed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def saved_often(monkeypatch: pytest.MonkeyPatch) -> None:
    save_often(monkeypatch)


def runs_of(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[int]:
    """Count the batches that are run; break off at one of them."""
    counted: list[int] = []
    run = collect.Collector._run

    def counting(self: collect.Collector, feed: Feed) -> None:
        if len(counted) == stop_at:
            raise KeyboardInterrupt
        counted.append(len(counted))
        run(self, feed)

    monkeypatch.setattr(collect.Collector, "_run", counting)
    return counted


def bytes_of(calibration: Calibration, folder: Path) -> bytes:
    save_calibration(calibration, folder / "saved.npz")
    return (folder / "saved.npz").read_bytes()


@pytest.mark.usefixtures("saved_often")
@pytest.mark.parametrize("memory", [ONE_SWEEP, TWO_SWEEPS])
@pytest.mark.parametrize("samples", [3, 21, 40])
def test_interrupted_data_is_taken_up_again(
    samples: int, memory: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_for(tmp_path, memory)
    reference = bytes_of(calibrate(model, interrupted_after(None), options=replace(options, checkpoint=None)), tmp_path)
    if samples < len(IDS):
        with pytest.raises(KeyboardInterrupt):
            calibrate(model, interrupted_after(samples), options=options)
        assert (tmp_path / "checkpoint" / "run.json").is_file()
    run = runs_of(monkeypatch)
    assert bytes_of(calibrate(model, interrupted_after(None), options=options), tmp_path) == reference
    batches = 10 * (1 if memory == ONE_SWEEP else 2)  # 8 of calibration and 2 held out, in each sweep
    assert len(run) == batches - (samples * 4 // 5 // 4 if samples < len(IDS) else 0)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.usefixtures("saved_often")
@pytest.mark.parametrize("given", ["file", "iterable"])
@pytest.mark.parametrize("batch", range(0, 20, 3))
def test_no_batch_is_run_twice_wherever_it_stopped(
    batch: int, given: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "data.npz", **{INPUT: IDS})
    options = options_for(tmp_path)

    def calibrated(options: Options) -> Calibration:
        return calibrate(model, tmp_path / "data.npz" if given == "file" else interrupted_after(None), options=options)

    reference = bytes_of(calibrated(replace(options, checkpoint=None)), tmp_path)
    with monkeypatch.context() as patched:
        first = runs_of(patched, stop_at=batch)
        with pytest.raises(KeyboardInterrupt):
            calibrated(options)
    second = runs_of(monkeypatch)
    assert bytes_of(calibrated(options), tmp_path) == reference
    assert (len(first), len(second)) == (batch, 20 - batch)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from rankfold.pipeline import Options, compress
from rankfold.runtime_calib import checkpoint, collect
checkpoint.SAVE_SECONDS = checkpoint._COST = 0.0
model, folder, stop = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
run, count = collect.Collector._run, 0
def killing(self, feed):
    global count
    if count == stop:
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    run(self, feed)
collect.Collector._run = killing
options = Options(memory_bytes=150_000, checkpoint=folder / "checkpoint", latency_rounds=0, row_stride=2, batch_size=4,
                  held_out_to=folder / "held_out.npz")
compress(model, folder / "data.npz", keep=0.5, output=folder / "small.onnx", options=options)
print(count)
"""


def test_a_killed_compression_ends_with_the_same_bytes(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **{INPUT: IDS})

    def started(stop: int) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", KILLED, str(model), str(tmp_path), str(stop)]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    left: set[str] = set()
    for stop in (5, 9):  # in the first sweep, and, after the five batches that are known, in the second
        assert started(stop).returncode == -signal.SIGKILL
        assert not (tmp_path / "small.onnx").exists()
        before, left = left, {path.name for path in (tmp_path / "checkpoint").glob(".*.part*")}
        assert before.isdisjoint(left)
    last = started(1000)
    assert (last.returncode, last.stdout.split()) == (0, [str(20 - 5 - 9)]), last.stderr
    assert not (tmp_path / "checkpoint").exists()
    (tmp_path / "whole").mkdir()
    options = replace(options_for(tmp_path), checkpoint=None, held_out_to=tmp_path / "whole" / "held_out.npz")
    compress(model, tmp_path / "data.npz", keep=0.5, output=tmp_path / "whole" / "small.onnx", options=options)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize(("cost", "expected"), [(0, [60, 120, 180]), (10, [60, 270])])
def test_saving_takes_a_small_part_of_the_time(cost: int, expected: list[int], tmp_path: Path) -> None:
    path = tmp_path / "sums.npz"
    now = 0

    def clock() -> float:
        return now + (cost if path.exists() else 0)  # what was just written took its time

    keeper = checkpoint.SumKeeper(path, (0, 0), clock=clock)
    assert list(keeper.remaining([], {})) == []
    saves = []
    for now in range(280 if cost else 200):
        keeper.save_if_due({})
        if path.exists():
            saves.append(now)
            path.unlink()
    assert saves == expected


def test_a_finished_checkpoint_that_was_half_removed_is_begun_anew(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "state"
    whole_run = calibrate(model, {INPUT: IDS}, options=options_for(tmp_path / "other"))

    def killed(kept: Path) -> None:
        next(kept.glob("*.total.npy")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rankfold.runtime_calib.checkpoint_folder.cleared", killed)
        with pytest.raises(KeyboardInterrupt):
            calibrate(model, {INPUT: IDS}, options=options_for(folder))
    assert any((folder / "checkpoint").glob("*.gram.npy"))
    again = calibrate(model, {INPUT: IDS}, options=options_for(folder))
    assert not (folder / "checkpoint").exists()
    for request, moments in whole_run.moments.items():
        np.testing.assert_array_equal(again.moments[request].gram, moments.gram)
