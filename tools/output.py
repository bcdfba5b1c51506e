"""What the commands print: results on stdout, warnings and exceeded limits on stderr."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from rich.console import RenderableType

from rankfold.tools.compression import Compression
from rankfold.tools.limits import Limit, limit_message
from rankfold.tools.report_json import to_text
from rankfold.tools.tables import (
    discrepancy_table,
    latency_table,
    outcome_table,
    reasons_table,
    size_table,
    stdout_console,
)
from rankfold.tools.target_text import target_lines

EXIT_DONE = 0
EXIT_LIMIT_EXCEEDED = 1


def print_tables(*tables: RenderableType) -> None:
    """Print tables on stdout."""
    console = stdout_console()
    for table in tables:
        console.print(table)


def print_text(text: str) -> None:
    """Print plain text on stdout, not wrapped: paths and commands are to be copied."""
    sys.stdout.write(f"{text}\n")


def print_json(content: Mapping[str, object]) -> None:
    """Print one JSON value on stdout."""
    sys.stdout.write(to_text(content))


def print_warnings(warnings: Sequence[str]) -> None:
    """Print warnings on stderr."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def print_compression(done: Compression) -> None:
    """Print what came of a compression."""
    report = done.report
    if report.sites:
        print_tables(outcome_table(report))
    if report.skipped:
        print_tables(reasons_table(report.skipped))
    print_tables(size_table(report), discrepancy_table(report.discrepancy))
    if report.latency:
        print_tables(latency_table(report.latency))
    for line in target_lines(report):
        print_text(line)
    if not report.changed:
        print_text("Nothing was folded: the model meets the request as it is, or no layer gains by a fold.")
    print_text(f"Model: {report.output}")


def exit_code(limits: Sequence[Limit]) -> int:
    """Tell every exceeded limit on stderr and return the exit code: 1 if there is one, else 0."""
    exceeded = [limit for limit in limits if limit.exceeded]
    for limit in exceeded:
        print(f"rankfold: {limit_message(limit)}", file=sys.stderr)
    return EXIT_LIMIT_EXCEEDED if exceeded else EXIT_DONE
