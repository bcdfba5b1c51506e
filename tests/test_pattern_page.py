"""The page of patterns says what the rules do."""

from __future__ import annotations

from pathlib import Path

import pytest

from rankfold.passes import reasons
from rankfold.passes.rules import RULES
from rankfold.tools.pattern_page import main, pattern_tables, with_tables

PAGE = Path(__file__).parents[1] / "docs" / "folding.md"


def test_the_page_is_up_to_date() -> None:
    assert with_tables(PAGE.read_text(encoding="utf-8")) == PAGE.read_text(encoding="utf-8")


def test_every_rule_and_reason_is_there() -> None:
    text = pattern_tables()
    assert all(f"| {rule.op_type} |" in text for rule in RULES)
    assert all(operator in text for operator in reasons.OPERATORS_LEFT_ALONE)
    assert "convolution in ‹groups› groups" in text
    assert "{" not in text


def test_the_command_rewrites_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- patterns: begin -->\nold\n<!-- patterns: end -->\nb\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["pattern_page", str(page)])
    main()
    assert page.read_text(encoding="utf-8") == (
        f"a\n<!-- patterns: begin -->\n{pattern_tables()}\n<!-- patterns: end -->\nb\n"
    )
