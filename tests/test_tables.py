"""Tables as text: every number at its place, names neither cut nor read as markup."""

from __future__ import annotations

import re

import pytest
from report_examples import PLAN, REPORT

from rankfold.findings import Analysis, SiteSummary
from rankfold.tools.tables import (
    analysis_table,
    as_text,
    discrepancy_table,
    duration,
    format_plan,
    latency_table,
    lost,
    outcome_table,
    reasons_table,
    size_table,
    skipped_table,
)


def lines(text: str) -> list[list[str]]:
    """Return the cells of every line: they stand at least two blanks apart."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines() if line.strip()]


def test_a_plan_prints_rank_parameters_and_predicted_error_per_site() -> None:
    found = lines(format_plan(PLAN))
    assert found[0] == ["Rank plan: keep 0.5"]
    assert ["blocks.0/fc1[a]", "48 × 64", "8", "896", "29.17 %", "3.1 %"] in found
    assert ["head", "48 × 10", "dense", "480", "100.00 %", "0 %"] in found
    assert ["blocks.0/fc2", "64 × 48", "16, pivoted", "1,536", "50.00 %", "0 %"] in found
    assert ["(excluded or folded before)", "96", "50.00 %"] in found
    assert found[-1] == ["total", "3,008 of 6,816", "44.13 %"]


def test_a_long_name_is_neither_cut_nor_broken() -> None:
    name = "/encoder" * 12 + "/MatMul[0]:smile:"
    site = SiteSummary(name, "MatMul", 48, 64, 1, 27, None, {}, 0)
    assert name in as_text(analysis_table(Analysis("c" * 64, (site,), (), 0, 3072)))


def test_an_analysis_shows_spectra_only_with_data() -> None:
    bare = SiteSummary("fc", "MatMul", 48, 64, 2, 27, None, {}, 0)
    assert lines(as_text(analysis_table(Analysis("c" * 64, (bare,), (), 0, 3072))))[-1] == [
        *("fc", "MatMul", "48 × 64", "2", "3,072", "27")
    ]
    seen = SiteSummary("fc", "MatMul", 48, 64, 2, 27, 40, {0.999: 33, 0.9: 12}, 320)
    found = lines(as_text(analysis_table(Analysis("c" * 64, (seen,), (), 0, 3072))))
    assert found[1][-2:] == ["rank for 90 %", "rank for 99.9 %"]
    assert found[-1][-4:] == ["320", "40", "12", "33"]


def test_outcomes_sizes_errors_and_times_stand_at_their_places() -> None:
    assert ["blocks.0/fc2", "64 × 48", "16, pivoted", "3,072 → 1,536", "< 0.0001 %", "0.098 %"] in lines(
        as_text(outcome_table(REPORT))
    )
    assert ["bytes", "28,500", "14,250", "50.00 %"] in lines(as_text(size_table(REPORT)))
    assert ["logits", "0.125", "0.992188", "0.75", "0.0625", "3.5", "0.25", "96.88 %", "0.76"] in lines(
        as_text(discrepancy_table(REPORT.discrepancy))
    )
    assert ["cpu", "8", "20.0 ms (19.0 to 21.0)", "10.0 ms (9.00 to 11.0)", "2.00×"] in lines(
        as_text(latency_table(REPORT.latency))
    )


def test_skipped_nodes_stand_singly_or_by_reason() -> None:
    singly = lines(as_text(skipped_table(REPORT.skipped)))
    assert singly[-1] == ["mix", "MatMul", "neither operand is constant"]
    assert lines(as_text(reasons_table(REPORT.skipped)))[-2:] == [
        ["neither operand is constant", "2", "MatMul", "scores"],
        ["convolutions are not folded yet", "1", "Conv", "patch|conv"],
    ]


@pytest.mark.parametrize(("share", "text"), [(0.0, "0 %"), (0.5, "50 %"), (0.00031, "0.031 %"), (1e-9, "< 0.0001 %")])
def test_small_shares_keep_two_digits(share: float, text: str) -> None:
    assert lost(share) == text


@pytest.mark.parametrize(
    ("time_ms", "text"), [(240.8, "241"), (99.96, "100"), (21.04, "21.0"), (2.25, "2.25"), (0.00332, "0.00332")]
)
def test_times_keep_three_digits(time_ms: float, text: str) -> None:
    assert duration(time_ms) == text
