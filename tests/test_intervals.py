"""Figures from terms per sample, and the paired bootstrap of their differences."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.intervals import Measure, mean_of, paired_interval, relative_l2, student_interval
from scipy import stats


def test_figures_are_those_of_their_definitions() -> None:
    assert mean_of(np.array([True, False, True, True])).value == 0.75
    reference = np.array([[3.0, 0.0], [0.0, 4.0]])
    found = np.array([[3.0, 1.0], [2.0, 4.0]])
    # sqrt((1 + 4) / (9 + 16)), up to a rounding of the division
    assert relative_l2(found, reference).value == pytest.approx(0.2**0.5, rel=1e-15)


def test_a_candidate_does_not_differ_from_itself() -> None:
    scores = mean_of(np.random.default_rng(0).random(50))
    found = paired_interval(scores, scores)
    assert (found.difference, found.low, found.high) == (0.0, 0.0, 0.0)


def test_pairs_take_out_what_samples_have_in_common() -> None:
    random = np.random.default_rng(1)
    hard = 100 * random.random(400)  # samples differ by far more than the candidates do
    found = paired_interval(mean_of(hard), mean_of(hard + 1.0))
    # The difference is one in every sample; what is left is the rounding of sums of 400 numbers near 100.
    assert [found.difference, found.low, found.high] == pytest.approx([1.0] * 3, rel=0, abs=1e-10)


def test_the_interval_of_a_mean_is_about_the_normal_one() -> None:
    values = np.random.default_rng(2).standard_normal(900) + 0.1
    found = paired_interval(mean_of(np.zeros(900)), mean_of(values))
    half = 1.96 * values.std() / 30
    # 10,000 resamples know the 2.5 % point to about 0.03 deviations (sqrt(.025 · .975 / 10,000) / density .058);
    # a mean of 900 is normal to a hundredth. Three of the former, of 1.96, are 5 %.
    assert found.high - found.difference == pytest.approx(half, rel=0.05)
    assert found.difference - found.low == pytest.approx(half, rel=0.05)


def test_the_truth_lies_within_as_often_as_promised() -> None:
    random, inside, trials = np.random.default_rng(3), 0, 400
    for trial in range(trials):
        below = 1 + random.random(150)
        first = Measure(below * 0.04 * random.chisquare(4, 150) / 4, below, root=True)  # a relative L2 of 0.2
        second = Measure(below * 0.09 * random.chisquare(4, 150) / 4, below, root=True)  # of 0.3
        found = paired_interval(first, second, seed=trial, resamples=1000)
        inside += found.low <= 0.1 <= found.high
    # Percentile intervals of 150 samples cover some percent less than they say: 92 to 95 % is what is known of them.
    # Chance adds 1.1 % (one deviation of 400 trials); three of them on either side.
    low, high = stats.binom.ppf([0.00135, 0.99865], trials, [0.92, 0.95])
    assert low <= inside <= high


def test_the_seed_decides() -> None:
    first, second = (mean_of(np.random.default_rng(seed).random(30)) for seed in (4, 5))
    assert paired_interval(first, second) == paired_interval(first, second)
    assert paired_interval(first, second) != paired_interval(first, second, seed=1)


def test_the_number_drawn_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (mean_of(np.random.default_rng(seed).random(30)) for seed in (4, 5))
    whole = paired_interval(first, second, resamples=100)
    monkeypatch.setattr("benchmarks.intervals._AT_A_TIME", 30 * 7)
    assert paired_interval(first, second, resamples=100) == whole


def test_what_is_no_pair_is_refused() -> None:
    ones = np.ones(3)
    with pytest.raises(ValueError, match="figures of 3 and 4 samples"):
        paired_interval(mean_of(ones), mean_of(np.ones(4)))
    with pytest.raises(ValueError, match="are no pair"):
        paired_interval(mean_of(ones), Measure(ones.copy(), ones.copy(), root=True))
    with pytest.raises(ValueError, match="expected \\(samples,\\) twice"):
        Measure(np.ones(2), np.ones(3), root=False)


def test_the_interval_of_three_differences_is_students() -> None:
    found = student_interval(np.array([1.0, 2.0, 3.0]))
    # 4.302653 is the 97.5 % point of t with two degrees of freedom, as tables have it; the deviation is one.
    assert [found.difference, found.low, found.high] == pytest.approx([2, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5])
    with pytest.raises(ValueError, match="1 differences have no spread"):
        student_interval(np.array([1.0]))
