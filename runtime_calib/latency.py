"""Timing two models against each other in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime

from rankfold.findings import Latency
from rankfold.runtime_calib.sessions import ORT_ERRORS, open_session, unusable_batch
from rankfold.runtime_calib.units import sample_count
from rankfold.values import Feed, Provider

Clock = Callable[[], float]
Run = Callable[[], None]

_LEAN_NOTE = "neither model's weights prepacked"
_WARM_UPS = 3  # first runs allocate, pack weights and choose kernels
_LEAST_ROUNDS = 5  # the fewest that have quartiles worth the name
_MOST_SECONDS = 20.0  # a round is not begun later than this, once there are enough


def measure_latency(
    base: Path,
    candidate: Path,
    feed: Feed,
    *,
    provider: Provider = "cpu",
    rounds: int = 30,
    seconds: float = _MOST_SECONDS,
    clock: Clock = time.perf_counter,
) -> Latency:
    """Return the times of one batch, fed as it is; see `latency_of_batches`."""
    (latency,) = latency_of_batches(
        base, candidate, [feed], provider=provider, rounds=rounds, seconds=seconds, clock=clock
    )
    return latency


def latency_of_batches(
    base: Path,
    candidate: Path,
    feeds: Iterable[Feed],
    *,
    provider: Provider = "cpu",
    lean: bool = False,
    rounds: int = 30,
    seconds: float = _MOST_SECONDS,
    clock: Clock = time.perf_counter,
) -> tuple[Latency, ...]:
    """Return the times of every feed, batch after batch.

    Inputs and outputs stay on the device; CUDA is waited for. Every round runs both models, in an order that
    changes from round to round, so that whatever slows the machine for a while slows both. Threads do not spin
    between runs: one model's would take the other's CPUs.

    Args:
        lean: Both without onnxruntime's own copies of the weights; noted in the result.
        rounds: Rounds per feed.
        seconds: Time per feed after which no round begins, once there are five.

    Raises:
        CalibrationDataError: A model cannot run a feed.
    """
    first, second = (open_session(path, provider=provider, lean=lean) for path in (base, candidate))
    latencies = []
    for feed in feeds:
        before, after = interleave(
            _bound(first, feed, provider), _bound(second, feed, provider), rounds=rounds, seconds=seconds, clock=clock
        )
        latencies.append(summarize_times(before, after, provider=provider, batch=sample_count(feed)))
    return tuple(replace(line, note=_LEAN_NOTE) if lean else line for line in latencies)


def interleave(
    first: Run, second: Run, *, rounds: int, seconds: float, clock: Clock
) -> tuple[list[float], list[float]]:
    """Return the seconds that each took in each round, after warming up."""
    start = clock()
    for done in range(_WARM_UPS):
        if done and clock() - start > seconds:
            break
        first()
        second()
    times: tuple[list[float], list[float]] = ([], [])
    for done in range(rounds):
        if done >= _LEAST_ROUNDS and clock() - start > seconds:
            break
        order = ((0, first), (1, second)) if done % 2 == 0 else ((1, second), (0, first))
        for which, run in order:
            begin = clock()
            run()
            times[which].append(clock() - begin)
    return times


def summarize_times(before: list[float], after: list[float], *, provider: str, batch: int) -> Latency:
    """Return medians, quartiles and the median of the rounds' ratios; times in seconds, round by round."""
    low, middle, high = np.quantile(np.array([before, after]) * 1e3, [0.25, 0.5, 0.75], axis=1)
    return Latency(
        provider=provider,
        batch=batch,
        before_ms=float(middle[0]),
        after_ms=float(middle[1]),
        before_spread_ms=(float(low[0]), float(high[0])),
        after_spread_ms=(float(low[1]), float(high[1])),
        speedup=float(np.median(np.divide(before, after))),
        rounds=len(before),
    )


def _bound(session: onnxruntime.InferenceSession, feed: Feed, provider: Provider) -> Run:
    """Return a run of the session over the feed, whose inputs are on the device already."""
    binding = session.io_binding()
    try:
        for name, array in feed.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, provider, 0))
        for output in session.get_outputs():
            binding.bind_output(output.name, provider)
    except ORT_ERRORS as error:
        raise unusable_batch(feed, error) from error

    def run() -> None:
        try:
            session.run_with_iobinding(binding)
        except ORT_ERRORS as error:
            raise unusable_batch(feed, error) from error
        binding.synchronize_outputs()

    return run
