"""What the page on training says of commands and settings."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from rankfold.models.train import _parser
from rankfold.training.low_rank import LowRank

PAGE = (Path(__file__).parent.parent / "docs" / "training.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ python -m (rankfold\.models\.\w+) (.*)$", PAGE, flags=re.MULTILINE)
ROWS = re.findall(r"^\| `(--.*?)` \| `(\w+)` \|", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize(("module", "arguments"), COMMANDS)
def test_commands_of_the_page_parse(module: str, arguments: str) -> None:
    import_module(module)._parser().parse_args(shlex.split(arguments))


@pytest.mark.parametrize(("option", "field"), ROWS)
def test_options_of_the_page_parse(option: str, field: str) -> None:
    given = ["mlp", "--data", "a", "--out", "b", *shlex.split(option)]
    options = vars(_parser().parse_args(given))
    assert options["low_rank" if field == "ranks" else f"low_rank_{field}"] is not None


def test_the_page_has_both_commands_and_every_setting() -> None:
    assert {module for module, _ in COMMANDS} == {"rankfold.models.train", "rankfold.models.sweep"}
    assert {field for _, field in ROWS} == {field.name for field in fields(LowRank)} - {"seed"}
