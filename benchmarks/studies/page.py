"""Where a study's figures go: its results file, its part of the page of studies, and its pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.common import PICTURES, RESULTS, STUDIES, write_between, write_results
from rankfold.tools.pictures import Picture, write_pictures

Row = dict[str, Any]


@dataclass(frozen=True)
class Page:
    """One study's part of the page.

    Attributes:
        name: Of its results file, and of its marks on the page.
        table: Gives the tables of its results.
        pictures: Gives their pictures by file name.
        titles: What each picture shows, by file name.
    """

    name: str
    table: Callable[[Row], str]
    pictures: Callable[[Row], Mapping[str, Picture]]
    titles: Mapping[str, str]

    def publish(self, found: Row) -> None:
        """Write the results, and what the page shows of them."""
        write_results(self.name, found, self.part(found), folder=RESULTS / "studies", page=STUDIES)
        self._draw(found)

    def redraw(self) -> None:
        """Write pictures and tables again from the committed results."""
        found = json.loads((RESULTS / "studies" / f"{self.name}.json").read_text())
        write_between(self.name, self.part(found), STUDIES)
        self._draw(found)

    def part(self, found: Row) -> str:
        """Return what the page shows: the tables and the pictures."""
        shown = (f"![{self.titles[file]}](pictures/{file})" for file in self.pictures(found))
        return "\n\n".join([self.table(found), *shown])

    def _draw(self, found: Row) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        print(*write_pictures(PICTURES, self.pictures(found)), sep="\n")
