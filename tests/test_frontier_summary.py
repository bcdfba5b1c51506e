"""What is said of candidates side by side: who is best, who is surely better, and what is written of it."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.candidates import OURS, UNIFORM, Candidate, Scored
from benchmarks.frontier_summary import (
    Group,
    Row,
    bars,
    best_rival,
    is_best,
    long_table,
    rows_of,
    short_table,
    wholly_better,
)
from benchmarks.intervals import Measure, mean_of

SAMPLES = 400


def scored(basis: str, away: float, right: float, *, allocation: str = UNIFORM, noise: float = 0.0) -> Scored:
    """Return a candidate with a relative L2 of about `away`, and an accuracy of about `right`."""
    random = np.random.default_rng(len(basis))
    squares = (away + noise * random.normal(size=SAMPLES)) ** 2
    scores = {
        "relative L2": Measure(squares, np.ones(SAMPLES), root=True),
        "accuracy": mean_of(np.arange(SAMPLES) < right * SAMPLES),
    }
    keep = 1.0 if basis == "original" else 0.5
    return Scored(Candidate("vit", keep, basis, allocation), keep, 1000, scores)


def group(rival: Scored) -> Group:
    return Group(
        scored("original", 0.0, 1.0), scored(OURS, 0.2, 0.9, allocation=OURS), (rival, scored("ASVD", 0.5, 0.5))
    )


def rows(rival: Scored) -> list[Row]:
    return rows_of([group(rival)])


def test_a_smaller_distance_and_a_larger_share_are_better() -> None:
    found = rows(scored("AFM", 0.3, 0.95))
    assert best_rival(found, "relative L2")["basis"] == "AFM"
    assert is_best(found, "relative L2")
    assert not is_best(found, "accuracy")
    assert [rival["basis"] for rival in wholly_better(found, "accuracy")] == ["AFM"]
    assert wholly_better(found, "relative L2") == []
    assert bars(found).startswith("By the first score of each model rankfold is the best point in 1 of 1 rows")
    assert bars(found).endswith("lies wholly on the better side in 0.")


def test_a_rival_that_is_surely_better_is_counted() -> None:
    found = rows(scored("AFM", 0.19, 0.9))
    assert [rival["basis"] for rival in wholly_better(found, "relative L2")] == ["AFM"]
    assert "in 0 of 1 rows" in bars(found)
    assert bars(found).endswith("lies wholly on the better side in 1.")


def test_within_the_noise_a_better_point_is_not_surely_better() -> None:
    found = group(scored("AFM", 0.172, 0.9, noise=0.1))  # √(.172² + .1²) is about .2
    named = found.difference(found.rivals[0], "relative L2")
    assert named.low < 0 < named.high
    assert wholly_better(rows_of([found]), "relative L2") == []


def test_tables_and_results_hold_every_candidate() -> None:
    found = group(scored("AFM", 0.3, 0.95, allocation=OURS))
    long = long_table("vit", [found]).splitlines()
    assert [line.split(" | ")[0] for line in long[2:]] == [
        "| original",
        "| keep 0.50, rankfold",
        "| keep 0.50, AFM, rankfold ranks",
        "| keep 0.50, ASVD, uniform ranks",
    ]
    first, second = short_table(rows_of([found]), {("vit", 0.5): {"relative L2": 0.15}}).splitlines()[2:]
    assert first.startswith(
        "| embedded ViT, relative L2 | 0.50 | 0.0000 | **0.2000** |  | 0.5000 |  |  | 0.3000, AFM, rankf"
    )
    assert second.startswith("| embedded ViT, accuracy | 0.50 | 1.0000 | 0.9000 |")
    assert first.endswith(" | 0.1500 |")
    assert second.endswith(" |  |")
    made = rows_of([found])
    assert [row["basis"] for row in made] == [OURS, "AFM", "ASVD"]
    assert made[1]["less_rankfold"]["relative L2"]["difference"] == pytest.approx(0.1)
    assert "less_rankfold" not in made[0]
