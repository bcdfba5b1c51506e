"""What the page on networks says of them and of their commands."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from rankfold.models import datasets
from rankfold.models.networks import STANDARD

PAGE = (Path(__file__).parent.parent / "docs" / "networks.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ python -m (rankfold\.models\.\w+) (.*)$", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize(("module", "arguments"), COMMANDS)
def test_commands_of_the_page_parse(module: str, arguments: str) -> None:
    import_module(module)._parser().parse_args(shlex.split(arguments))


def test_the_page_lists_every_network_and_every_set() -> None:
    assert {module for module, _ in COMMANDS} == {"rankfold.models.export_checkpoint", "rankfold.models.train"}
    rows = re.findall(r"^\| (`.*?) \|", PAGE, flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert set(STANDARD) | set(datasets.NAMES) <= named
