"""Interleaved timing, with a fake clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib.latency import interleave, latency_of_batches, measure_latency, summarize_times

GRAPH = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x, int64[1] k) => (float[N, 3] y) { y = %s(x) }'


@dataclass
class FakeMachine:
    """A clock that only its models move on; each model takes its seconds in turn, the last one for ever."""

    now: float = 0.0
    log: list[str] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def model(self, name: str, *seconds: float) -> _FakeModel:
        return _FakeModel(self, name, list(seconds))


@dataclass
class _FakeModel:
    machine: FakeMachine
    name: str
    seconds: list[float]

    def __call__(self) -> None:
        self.machine.log.append(self.name)
        self.machine.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]


def test_order_alternates_after_the_warm_up() -> None:
    machine = FakeMachine()
    before, after = interleave(
        machine.model("a", 8.0, 8.0, 8.0, 2.0), machine.model("b", 4.0, 4.0, 4.0, 1.0),
        rounds=4, seconds=1e9, clock=machine.clock,
    )  # fmt: skip
    assert "".join(machine.log) == "ababab" + "abbaabba"
    assert (before, after) == ([2.0] * 4, [1.0] * 4)  # nothing of the slow warm-up


def test_time_is_bounded_but_five_rounds_are_run() -> None:
    machine = FakeMachine()
    before, after = interleave(
        machine.model("a", 1.0), machine.model("b", 1.0), rounds=30, seconds=3.0, clock=machine.clock
    )
    assert len(before) == len(after) == 5
    assert machine.log.count("a") == 5 + 2  # the warm-up was cut too: two of three fill the time
    machine = FakeMachine()
    before, _ = interleave(
        machine.model("a", 1.0), machine.model("b", 1.0), rounds=30, seconds=20.0, clock=machine.clock
    )
    assert len(before) == 8  # 6 s of warm-up, and the round that begins at 20 s still runs


def test_summary_is_in_milliseconds_and_pairs_the_rounds() -> None:
    before = [0.010, 0.020, 0.030, 0.040, 0.050]
    after = [0.005, 0.010, 0.060, 0.010, 0.010]
    latency = summarize_times(before, after, provider="cpu", batch=7)
    # Milliseconds of exact thousandths and linear quartiles: only the products' last digits may differ.
    assert latency.before_ms == pytest.approx(30.0, rel=1e-12, abs=0)
    assert latency.before_spread_ms == pytest.approx((20.0, 40.0), rel=1e-12, abs=0)
    assert latency.after_ms == pytest.approx(10.0, rel=1e-12, abs=0)
    assert latency.after_spread_ms == pytest.approx((10.0, 10.0), rel=1e-12, abs=0)
    assert latency.speedup == pytest.approx(2.0, rel=1e-12, abs=0)  # of 2, 2, 0.5, 4, 5; the medians' ratio is 3
    assert (latency.provider, latency.batch, latency.rounds) == ("cpu", 7, 5)


def _save(path: Path, operator: str) -> Path:
    onnx.save(onnx.parser.parse_model(GRAPH % operator), path)
    return path


def _feed(batch: int) -> dict[str, np.ndarray]:
    return {"x": np.ones((batch, 3), np.float32), "k": np.zeros(1, np.int64)}


def test_models_are_run_through_their_bindings(tmp_path: Path) -> None:
    base, candidate = _save(tmp_path / "a.onnx", "Relu"), _save(tmp_path / "b.onnx", "Neg")
    ticks = iter(range(10_000))

    def clock() -> float:
        return float(next(ticks))  # every look at the clock is a second later

    one, four = latency_of_batches(base, candidate, [_feed(1), _feed(4)], rounds=6, seconds=1e9, clock=clock)
    assert (one.batch, four.batch, one.rounds, four.rounds) == (1, 4, 6, 6)
    assert (one.before_ms, one.after_ms, one.speedup) == (1000.0, 1000.0, 1.0)
    assert measure_latency(base, candidate, _feed(2), rounds=1, seconds=1e9, clock=clock).rounds == 1


@pytest.mark.parametrize("feed", [{"x": np.ones((1, 4), np.float32), "k": np.zeros(1, np.int64)}, {"z": np.ones(1)}])
def test_batch_that_cannot_be_run(tmp_path: Path, feed: dict[str, np.ndarray]) -> None:
    model = _save(tmp_path / "a.onnx", "Relu")
    with pytest.raises(CalibrationDataError, match="onnxruntime cannot run the model on a batch of"):
        measure_latency(model, model, feed, rounds=1)


def test_times_without_copies_of_the_weights_say_so(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(GRAPH % "Relu"), path)
    feed = {"x": np.ones((2, 3), np.float32), "k": np.ones(1, np.int64)}
    notes = [latency_of_batches(path, path, [feed], rounds=5, lean=lean)[0].note for lean in (False, True)]
    assert notes == [None, "neither model's weights prepacked"]
