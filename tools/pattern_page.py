"""The table of patterns in the documentation: `python -m rankfold.tools.pattern_page PAGE` rewrites it in place.

It is made of the rules themselves, so that the page cannot say what the code does not do.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from rankfold.passes import reasons
from rankfold.passes.rules import RULES

_BEGIN, _END = "<!-- patterns: begin -->", "<!-- patterns: end -->"
_PLACEHOLDER = re.compile(r"\{(\w+)(?:!r)?\}")


def pattern_tables() -> str:
    """Return the tables of what is folded, of operators left alone, and of every reason to leave a node alone."""
    return "\n".join([*_folded(), "", *_operators(), "", *_reasons()])


def with_tables(page: str) -> str:
    """Return a page with the part between the marks made anew."""
    before, rest = page.split(_BEGIN)
    _, after = rest.split(_END)
    return f"{before}{_BEGIN}\n{pattern_tables()}\n{_END}{after}"


def main() -> None:
    """Rewrite the page that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    page = parser.parse_args().page
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


def _folded() -> Iterator[str]:
    yield "| Operator | What is folded | What stands there afterwards |"
    yield "| --- | --- | --- |"
    yield from (f"| {rule.op_type} | {rule.reads} | {rule.writes} |" for rule in RULES)


def _operators() -> Iterator[str]:
    yield "| Operators that are never folded | Why |"
    yield "| --- | --- |"
    by_reason: dict[str, list[str]] = {}
    for operator, reason in reasons.OPERATORS_LEFT_ALONE.items():
        by_reason.setdefault(reason, []).append(operator)
    yield from (f"| {', '.join(operators)} | {reason} |" for reason, operators in by_reason.items())


def _reasons() -> Iterator[str]:
    yield "Any other linear node that is left alone is listed with one of these reasons:"
    yield ""
    shared = set(reasons.OPERATORS_LEFT_ALONE.values())
    texts = (text for name, text in vars(reasons).items() if name.isupper() and isinstance(text, str))
    yield from ("- " + _PLACEHOLDER.sub(r"‹\1›", text) for text in texts if text not in shared)


if __name__ == "__main__":
    main()
