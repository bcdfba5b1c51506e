"""Writing what a command puts out: every file under a temporary name beside its place, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rankfold.errors import OutputError
from rankfold.findings import Report
from rankfold.options import Options
from rankfold.passes.partial_files import partial_folder, sweep
from rankfold.passes.plan_file import plan_to_json
from rankfold.passes.write_model import check_writable, reported, whole_file_reported
from rankfold.tools.limits import Limit
from rankfold.tools.polygraphy_files import polygraphy_commands, write_polygraphy_loader
from rankfold.tools.report_json import report_to_json, to_text
from rankfold.tools.report_markdown import report_to_markdown
from rankfold.tools.run_notes import note_output_folder

HELD_OUT = "held_out.npz"


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    note_output_folder(path.parent)
    with whole_file_reported(path) as file:
        file.write(content)


def make_folder(folder: Path) -> None:
    """Make a folder, with those above it, unless it is there.

    Raises:
        OutputError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: the folder cannot be made ({error.strerror or error}); give another place"
        ) from error


@contextmanager
def held_out_place(report: Path | None) -> Iterator[Path | None]:
    """Yield where the held-out batches are written until the run has succeeded; then they move into the report.

    The report's folder is made at the end, so that a run that fails or is killed leaves none. None without a report.

    Raises:
        OutputError: The folder cannot be made or written to.
    """
    if report is None:
        yield None
        return
    base = report / HELD_OUT if report.exists() else _first_missing(report)
    note_output_folder(base.parent)
    check_writable(base)
    sweep(report.parent, name=report.name)  # left by a run that was killed when it had just made the folder
    with partial_folder(base) as folder:
        yield folder / HELD_OUT
        make_folder(report)
        with reported(report / HELD_OUT):
            os.replace(folder / HELD_OUT, report / HELD_OUT)


def _first_missing(folder: Path) -> Path:
    """Return the folder itself, or the first one above it that would have to be made too."""
    while not folder.parent.exists():
        folder = folder.parent
    return folder


def write_report(folder: Path, report: Report, *, limits: Sequence[Limit], options: Options) -> tuple[str, ...]:
    """Write plan.json, report.json, report.md and polygraphy_data.py; `held_out.npz` stands there already.

    Returns:
        The shell commands that check the result with Polygraphy.

    Raises:
        OutputError: A file cannot be written.
    """
    write_polygraphy_loader(folder, HELD_OUT)
    commands = polygraphy_commands(
        report.source,
        report.output,
        folder,
        report.discrepancy,
        all_outputs=not options.outputs,
        provider=options.provider,
    )
    write_text(folder / "plan.json", plan_to_json(report.plan))
    write_text(folder / "report.md", report_to_markdown(report, limits=limits, commands=commands))
    write_text(folder / "report.json", to_text(report_to_json(report, limits=limits, commands=commands)))
    return commands
