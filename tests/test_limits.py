"""Stated limits: the worst value counts, equality is within, NaN is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_examples import FEATURES, LOGITS, REPORT

from rankfold.findings import Discrepancy
from rankfold.tools.limits import error_limit, limit_message, speedup_limit


def test_nothing_stated_is_no_limit() -> None:
    assert error_limit(REPORT.discrepancy, None) == ()
    assert speedup_limit(REPORT.latency, None) == ()


@pytest.mark.parametrize(("allowed", "exceeded"), [(0.125, False), (0.1249, True)])
def test_the_worst_output_is_held_against_the_error_limit(allowed: float, exceeded: bool) -> None:
    (limit,) = error_limit(REPORT.discrepancy, allowed)
    assert (limit.found, limit.exceeded) == (LOGITS.relative_l2, exceeded)
    assert "'logits'" in limit.subject


@pytest.mark.parametrize(("allowed", "exceeded"), [(1.25, False), (1.26, True)])
def test_the_slowest_batch_is_held_against_the_speedup_limit(allowed: float, exceeded: bool) -> None:
    (limit,) = speedup_limit(REPORT.latency, allowed)
    assert (limit.found, limit.exceeded) == (1.25, exceeded)
    assert "batch 1 on cpu" in limit.subject


def test_an_error_that_is_no_number_exceeds_every_limit() -> None:
    undefined = replace(FEATURES, relative_l2=float("nan"))
    (limit,) = error_limit(Discrepancy(4, (LOGITS, undefined)), 1e9)
    assert limit.exceeded
    assert "'features'" in limit.subject


def test_a_message_says_which_limit_what_was_found_and_what_is_allowed() -> None:
    (error,) = error_limit(REPORT.discrepancy, 0.1)
    (speedup,) = speedup_limit(REPORT.latency, 3.0)
    assert limit_message(error) == (
        "limit exceeded: relative L2 error of output 'logits' is 0.125, --max-error allows at most 0.1"
    )
    assert limit_message(speedup) == (
        "limit exceeded: speed-up at batch 1 on cpu is 1.25, --min-speedup allows at least 3"
    )
