"""A report as one readable page of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rankfold.findings import Latency, OutputDiscrepancy, Report, SiteOutcome, Size
from rankfold.tools.limits import Limit, limit_message
from rankfold.tools.report_search import healing_section, tried_section
from rankfold.tools.tables import (
    change,
    lost,
    milliseconds,
    percent,
    projection_cells,
    rank_text,
    shape_text,
    skip_reasons,
)
from rankfold.tools.target_text import target_lines

_SITES_SHOWN = 24
"""Lines of the site table; a page has room for about that many, and report.json holds them all."""
_REASONS_SHOWN = 12


def report_to_markdown(report: Report, *, limits: Sequence[Limit] = (), commands: Sequence[str] = ()) -> str:
    """Return the page; `commands` are the shell commands that check it with Polygraphy."""
    sections = (
        _head(report),
        _warnings(report),
        _notes(report),
        _target(report),
        _limits(limits),
        _sizes(report),
        _quality(report),
        tried_section(report),
        healing_section(report.healing),
        _latency(report.latency),
        _sites(report),
        _skipped(report),
        _reproduce(report, commands),
    )
    return "\n\n".join("\n".join(lines) for lines in map(list, sections) if lines) + "\n"


def _head(report: Report) -> Iterator[str]:
    yield f"# rankfold: {_code(report.source.name)} → {_code(report.output.name)}"
    yield ""
    sites = f"{len(report.plan.folded)} of {len(report.plan.sites)} linear weights folded"
    linear = report.linear_parameters
    kept = percent(linear.after / linear.before) if linear.before else "-"
    yield f"Asked for: **{report.plan.made_by}**. Came out: **{kept}** of the linear parameters kept, {sites}."
    if not report.changed:
        yield ""
        yield "Nothing was folded: the model meets the request as it is, or no layer gains by a fold."
    if report.inlined:
        yield ""
        yield f"Local functions put in line, for the layers inside them: {', '.join(map(_code, report.inlined))}."
    yield ""
    yield (
        f"Calibrated on {report.calibration_samples:,} samples; the errors below come from"
        f" {report.held_out_samples:,} held-out samples that decided nothing."
    )


def _warnings(report: Report) -> Iterator[str]:
    if report.warnings:
        yield "## Warnings"
        yield ""
        yield from (f"- {warning}" for warning in report.warnings)


def _notes(report: Report) -> Iterator[str]:
    if report.notes:
        yield "## Notes"
        yield ""
        yield from (f"- {note}" for note in report.notes)


def _target(report: Report) -> Iterator[str]:
    if lines := target_lines(report):
        yield "## Target"
        yield ""
        yield from (f"- {line}" for line in lines)


def _limits(limits: Sequence[Limit]) -> Iterator[str]:
    if limits:
        yield "## Stated limits"
        yield ""
        for limit in limits:
            met = f"met: {limit.subject} is {limit.found:.4g}, {limit.option} states {limit.allowed:.4g}"
            yield f"- {'**' + limit_message(limit) + '**' if limit.exceeded else met}"


def _sizes(report: Report) -> Iterator[str]:
    yield "## Size"
    yield ""
    yield from _table(
        ("", "before", "after", "kept"),
        (
            _size_row("parameters of linear weights", report.linear_parameters),
            _size_row("parameters of the model", report.parameters),
            _size_row("bytes", report.size_bytes),
        ),
    )


def _size_row(name: str, size: Size) -> tuple[str, ...]:
    return name, f"{size.before:,}", f"{size.after:,}", percent(size.after / size.before) if size.before else "-"


def _quality(report: Report) -> Iterator[str]:
    yield "## Quality"
    yield ""
    head = ("output", "relative L2", "cosine", "max abs error", "mean abs error", "top-1 agreement", "passing atol")
    yield from _table(head, map(_output_row, report.discrepancy.outputs))
    if check := report.self_check:
        verdict = "within" if check.largest <= check.tolerance else "**outside**"
        unseen = f"{check.unseen:.2g} on data never seen"
        if check.pivoted is not None:
            unseen += f", pivoted factors {check.pivoted:.2g} from the matrix they stand for"
        yield ""
        yield (
            f"Self-check, the model folded at full rank against itself: relative L2 {check.held_out:.2g} on held-out"
            f" data and {unseen}, {verdict} the tolerance of {check.tolerance:.2g};"
            f" {check.checked} of {check.folded} sites were checked."
        )


def _output_row(output: OutputDiscrepancy) -> tuple[str, ...]:
    return (
        _code(output.name),
        f"{output.relative_l2:.4g}",
        f"{output.cosine:.6f}",
        f"{output.max_abs:.4g}",
        f"{output.mean_abs:.4g}",
        "-" if output.top1_agreement is None else percent(output.top1_agreement),
        f"{output.passing_atol:.4g}",
    )


def _latency(latency: Sequence[Latency]) -> Iterator[str]:
    if not latency:
        return
    yield "## Latency"
    yield ""
    yield "Original and result interleaved in one process; median (quartiles)."
    yield ""
    rows = (
        (
            line.provider,
            str(line.batch),
            milliseconds(line.before_ms, line.before_spread_ms),
            milliseconds(line.after_ms, line.after_spread_ms),
            f"{line.speedup:.2f}×",
        )
        for line in latency
    )
    yield from _table(("provider", "batch", "before", "after", "speed-up"), rows)
    for note in dict.fromkeys(line.note for line in latency if line.note):
        yield ""
        yield f"Run with {note}."


def _sites(report: Report) -> Iterator[str]:
    if not report.sites:
        return
    yield "## Sites"
    yield ""
    shown = report.sites
    if len(shown) > _SITES_SHOWN:
        shown = tuple(sorted(shown, key=lambda site: -site.measured_error)[:_SITES_SHOWN])
        yield f"The {_SITES_SHOWN} of {len(report.sites)} with the largest measured error; report.json holds all."
        yield ""
    yield "Errors are shares of the site's output energy: predicted on calibration rows, measured on held-out rows."
    yield ""
    between = ("k_S", "k_T", "by P_S alone", "by P_T alone") if any(site.losses for site in report.sites) else ()
    if between:
        yield "Kept are k_S directions of the inputs and k_T of the outputs; what each alone loses stands beside them."
        yield ""
    head = ("site", "in × out", "rank", "parameters", *between, "predicted error", "measured error")
    yield from _table(head, (_site_row(site, between=bool(between)) for site in shown))


def _site_row(site: SiteOutcome, *, between: bool) -> tuple[str, ...]:
    return (
        _code(site.name),
        shape_text(site),
        rank_text(site),
        change(site.parameters_before, site.parameters_after),
        *(projection_cells(site) if between else ()),
        lost(site.predicted_error),
        lost(site.measured_error),
    )


def _skipped(report: Report) -> Iterator[str]:
    if not report.skipped:
        return
    yield "## Left as they are"
    yield ""
    reasons = skip_reasons(report.skipped)
    for reason in reasons[:_REASONS_SHOWN]:
        yield f"- {reason.nodes} × {reason.op_type} (first {_code(reason.first)}): {reason.reason}"
    if len(reasons) > _REASONS_SHOWN:
        yield f"- and {len(reasons) - _REASONS_SHOWN} more reasons, in report.json"


def _reproduce(report: Report, commands: Sequence[str]) -> Iterator[str]:
    yield "## Reproduce"
    if commands:
        yield ""
        yield "Polygraphy compares the two models on the held-out samples with the tolerances stated above:"
        yield ""
        yield "```sh"
        yield from commands
        yield "```"
    yield ""
    yield from _table(
        ("model", "sha256"),
        (
            (_code(str(report.source)), _code(report.source_digest)),
            (_code(str(report.output)), _code(report.output_digest)),
        ),
    )
    yield ""
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in report.versions.items()) + "."
    yield ""
    yield (
        "Settings: "
        + ", ".join(f"{name} {value}" for name, value in report.settings.items() if value is not None)
        + "."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield _row(head)
    yield _row(["---"] * len(head))
    yield from map(_row, rows)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(name: str) -> str:
    return f"`{name}`"
