"""Distances of outputs: what `auto` means, what each adds up to, and what a function of the user's may give."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from rankfold.errors import OptionsError
from rankfold.runtime_calib.distance import losses, resolved

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.standard_normal((6, 5)).astype(np.float32)
OTHER = LOGITS + RANDOM.standard_normal((6, 5)).astype(np.float32) * 0.3


def test_relative_l2_is_that_of_all_samples_together() -> None:
    whole = losses("relative_l2", LOGITS, OTHER)
    assert whole.reading == pytest.approx(np.linalg.norm(OTHER - LOGITS) / np.linalg.norm(LOGITS), rel=1e-6, abs=0)
    assert whole.mean == pytest.approx(whole.reading**2, rel=1e-12, abs=0)


def test_kl_is_scipys() -> None:
    first, second = (special.softmax(array.astype(np.float64), axis=1) for array in (LOGITS, OTHER))
    expected = [stats.entropy(p, q) for p, q in zip(first, second, strict=True)]
    assert losses("kl", LOGITS, OTHER).lost == pytest.approx(expected, rel=1e-9, abs=0)
    # Probabilities are taken as they are: no second softmax.
    assert losses("kl", first, second).lost == pytest.approx(expected, rel=1e-9, abs=0)


def test_cosine_knows_no_length() -> None:
    assert losses("cosine", LOGITS, 3 * LOGITS).lost == pytest.approx(np.zeros(6), abs=1e-12)
    assert losses("cosine", LOGITS, -LOGITS).lost == pytest.approx(np.full(6, 2.0), rel=1e-12, abs=0)


@pytest.mark.parametrize("name", ["relative_l2", "kl", "cosine"])
def test_the_same_loses_nothing(name: str) -> None:
    assert losses(name, LOGITS, LOGITS).mean == pytest.approx(0, abs=1e-12)  # type: ignore[arg-type]


def test_auto_looks_at_the_output() -> None:
    unit = LOGITS / np.linalg.norm(LOGITS, axis=1, keepdims=True)
    assert resolved("auto", LOGITS) == "kl"
    assert resolved("auto", special.softmax(LOGITS, axis=1)) == "kl"
    assert resolved("auto", unit) == "relative_l2"  # an embedding
    assert resolved("auto", LOGITS[:, :1]) == "relative_l2"
    assert resolved("auto", LOGITS[None]) == "relative_l2"
    assert resolved("cosine", LOGITS) == "cosine"


def test_a_function_judges() -> None:
    found = losses(lambda first, second: np.abs(first - second).max(axis=1), LOGITS, OTHER)
    assert found.mean == pytest.approx(np.abs(LOGITS - OTHER).max(axis=1).mean(), rel=1e-6, abs=0)
    assert found.reading == found.mean


@pytest.mark.parametrize(
    "wrong",
    [
        lambda first, _: np.zeros(len(first) - 1),
        lambda first, _: np.full(len(first), np.nan),
        lambda first, _: np.full(len(first), -1.0),
        lambda first, _: np.zeros((len(first), 2)),
    ],
)
def test_a_function_that_judges_otherwise_is_refused(wrong) -> None:
    with pytest.raises(OptionsError, match="expected one finite number of 0 or more per sample"):
        losses(wrong, LOGITS, OTHER)
