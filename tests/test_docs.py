"""The README and the pages under docs/: their Python runs, and their commands exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from rankfold.tools.cli import command_line

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for number, block in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)):
            yield f"{page.name}-{number}", block


def _commands() -> Iterator[str]:
    for _, block in _blocks("console"):
        for command in re.findall(r"^\$ (rankfold .*)$", block.replace("\\\n", " "), flags=re.MULTILINE):
            yield re.split(r"\s+#|\s+>", command)[0]


@pytest.mark.parametrize("code", [pytest.param(block, id=name) for name, block in _blocks("python")])
def test_python_of_the_pages_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "page", "exec"), {})  # noqa: S102  # the pages are ours


@pytest.mark.parametrize("command", sorted(set(_commands())))
def test_commands_of_the_pages_parse(command: str) -> None:
    command_line().parse_args(shlex.split(command)[1:])


def test_pages_hold_something_to_run() -> None:
    assert len(list(_blocks("python"))) >= 2
    assert len(set(_commands())) >= 6


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(((?!https?:)[^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
