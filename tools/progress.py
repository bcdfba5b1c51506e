"""Progress on stderr: bars at a terminal, one plain line per stage elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich import progress as rich_progress
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rankfold.options import Progress
from rankfold.tools.run_notes import note_stage

T = TypeVar("T")


@contextmanager
def shown_progress(*, quiet: bool = False) -> Iterator[Progress]:
    """Yield the function that the pipeline wraps around its iterables."""
    console = Console(stderr=True)
    if quiet:
        yield _noted
    elif console.is_terminal:
        with _bars(console) as bars:
            yield bars
    else:
        yield _announced


def _noted(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:  # noqa: ARG001  # shown by others
    note_stage(description)
    yield from items


def _announced(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    note_stage(description)
    amount = "" if total is None else f" ({total})"
    print(f"{description}{amount} ...", file=sys.stderr, flush=True)
    yield from items


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as shown:

        def barred(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
            note_stage(description)
            task = shown.add_task(description, total=total)
            seen = 0
            for item in items:
                yield item
                seen += 1
                shown.update(task, completed=seen)
            shown.update(task, completed=seen, total=seen)

        yield barred
