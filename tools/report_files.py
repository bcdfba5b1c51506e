"""Writing what a command puts out: every file under a temporary name beside its place, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rankfold.errors import OutputError
from rankfold.findings import Report
from rankfold.options import Options
from rankfold.passes.plan_file import plan_to_json
from rankfold.passes.write_model import check_writable, whole_file_reported
from rankfold.tools.limits import Limit
from rankfold.tools.polygraphy_files import polygraphy_commands, write_polygraphy_loader
from rankfold.tools.report_json import report_to_json, to_text
from rankfold.tools.report_markdown import report_to_markdown
from rankfold.tools.run_notes import note_output_folder, temporary_name

HELD_OUT = "held_out.npz"


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    note_output_folder(path.parent)
    with whole_file_reported(path) as file:
        file.write(text.encode())


@contextmanager
def renamed_at_end(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; at the end what stands there is renamed, after an error removed."""
    note_output_folder(path.parent)
    temporary = temporary_name(path)
    try:
        yield temporary
        if temporary.exists():
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
def report_folder(folder: Path | None) -> Iterator[Path | None]:
    """Make the folder of a report if need be; after an error, remove it again if it was made and is empty.

    Raises:
        OutputError: It cannot be made or written to.
    """
    if folder is None:
        yield None
        return
    made = not folder.exists()
    make_folder(folder)
    check_writable(folder / HELD_OUT)
    try:
        yield folder
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()


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
