"""One compression as the command line runs it: progress shown, limits checked, the report's files written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rankfold import pipeline
from rankfold.errors import OutputError
from rankfold.evaluation import Evaluate
from rankfold.findings import Report
from rankfold.options import Options
from rankfold.passes.write_model import check_no_input, check_writable
from rankfold.tools.limits import Limit, error_limit, speedup_limit
from rankfold.tools.options import Limits
from rankfold.tools.progress import shown_progress
from rankfold.tools.report_files import HELD_OUT, held_out_place, write_report
from rankfold.tools.run_notes import note_output_folder
from rankfold.values import RankPlan


@dataclass(frozen=True)
class Request:
    """What is to be compressed, to what, and where the results go.

    Attributes:
        keep, energy, plan, max_error, max_drop with evaluate, speedup, utilized: Exactly one is given.
        report: Folder of the report's files; None writes the model alone.
    """

    model: Path
    data: Path
    out: Path
    keep: float | None = None
    energy: float | None = None
    plan: RankPlan | None = None
    max_error: float | None = None
    max_drop: float | None = None
    evaluate: Evaluate | None = None
    speedup: float | None = None
    utilized: float | None = None
    report: Path | None = None


@dataclass(frozen=True)
class Compression:
    """What came out, the limits that were stated, and the Polygraphy commands that check the result."""

    report: Report
    plan: RankPlan
    limits: tuple[Limit, ...]
    commands: tuple[str, ...]


def run_compression(request: Request, *, limits: Limits, options: Options, quiet: bool) -> Compression:
    """Compress and write all files.

    Raises:
        RankfoldError: The input cannot be processed or an output not be written; nothing half-written is left.
    """
    _check_apart(request.model, request.out)
    note_output_folder(request.out.parent)
    check_writable(request.out)
    if request.report:
        check_no_input(request.report / HELD_OUT, (request.data,))
    with held_out_place(request.report) as held_out, shown_progress(quiet=quiet) as progress:
        result = pipeline.compress(
            request.model,
            request.data,
            keep=request.keep,
            energy=request.energy,
            plan=request.plan,
            max_error=request.max_error,
            max_drop=request.max_drop,
            evaluate=request.evaluate,
            speedup=request.speedup,
            utilized=request.utilized,
            output=request.out,
            options=replace(options, held_out_to=held_out, progress=progress),
        )
    report = result.report
    found = (*error_limit(report.discrepancy, limits.max_error), *speedup_limit(report.latency, limits.min_speedup))
    commands = write_report(request.report, report, limits=found, options=options) if request.report else ()
    return Compression(report, result.plan, found, commands)


def _check_apart(model: Path, out: Path) -> None:
    if model.exists() and out.exists() and out.samefile(model):
        raise OutputError(f"{out}: is the model itself, which the result is compared with; give another name to -o")
