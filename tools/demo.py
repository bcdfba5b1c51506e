"""`rankfold demo`: compresses the trained ViT that ships with the package, and says what it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from rankfold.findings import Report
from rankfold.models.demo import calibration_data, embedded_model, test_data
from rankfold.options import Options, Progress, silent
from rankfold.passes.model_file import input_specs, load_model
from rankfold.runtime_calib.feeds import batched, open_source
from rankfold.runtime_calib.sessions import open_session, run_outputs
from rankfold.tools.compression import Request, run_compression
from rankfold.tools.options import Limits, is_share
from rankfold.tools.output import print_compression, print_tables, print_text, print_warnings
from rankfold.tools.progress import shown_progress
from rankfold.tools.report_files import make_folder
from rankfold.tools.tables import duration, percent

_BATCH = 64


def demo(
    *,
    keep: Annotated[float, Parameter(validator=is_share)] = 0.5,
    out: Annotated[Path, Parameter(name="-o")] = Path("rankfold-demo"),
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Compress a small vision transformer trained on Fashion-MNIST, and measure what that costs.

    Args:
        keep: Share of the linear parameters to keep, in (0, 1].
        out: Folder for the compressed model and its report.
        quiet: Show no progress.
    """
    model, result = embedded_model(), out / f"{embedded_model().stem}.folded.onnx"
    make_folder(out)
    print_text(f"1. The model: {model}\n   a vision transformer for Fashion-MNIST, {model.stat().st_size:,} bytes")
    print_text(f"2. Compressing it to {keep:.0%} of its linear parameters, guided by {calibration_data()}")
    request = Request(model=model, data=calibration_data(), out=result, keep=keep, report=out)
    done = run_compression(request, limits=Limits(), options=Options(batch_size=_BATCH), quiet=quiet)
    print_warnings(done.report.warnings)
    print_compression(done)
    print_text(f"3. Both models on the labelled test images of {test_data()}")
    with shown_progress(quiet=quiet) as progress:
        right = [correct_answers(path, test_data(), progress=progress) for path in (model, result)]
    print_tables(summary_table(done.report, right, samples=len(_labels(test_data()))))
    print_text(f"4. The report: {out / 'report.md'}\n   Check the result with Polygraphy:")
    print_text("\n".join(f"   {command}" for command in done.commands))
    return 0


def correct_answers(model: Path, labelled: Path, *, progress: Progress = silent) -> int:
    """Return how many of the labelled samples the model's first output, (batch, classes), gives its largest value."""
    specs = input_specs(load_model(model))
    labels = _labels(labelled)
    session = open_session(model)
    batches = progress(
        batched(open_source(labelled, specs).units, _BATCH), f"testing {model.name}", -(-len(labels) // _BATCH)
    )
    answers = [next(iter(run_outputs(session, feed).values())).argmax(axis=1) for feed in batches]
    return int(np.count_nonzero(np.concatenate(answers) == labels))


def summary_table(report: Report, right: Sequence[int], *, samples: int) -> Table:
    """Return what the demo is about: accuracy, size and time, before and after."""
    table = Table(
        "", "before", "after", title=f"In short: {report.plan.made_by}", title_justify="left", box=SIMPLE_HEAD
    )
    table.add_row(f"accuracy on {samples:,} test images", *(percent(count / samples) for count in right))
    sizes = (("linear parameters", report.linear_parameters), ("bytes", report.size_bytes))
    for name, size in sizes:
        table.add_row(name, f"{size.before:,}", f"{size.after:,}")
    for line in report.latency:
        times = (f"{duration(time)} ms" for time in (line.before_ms, line.after_ms))
        table.add_row(f"time of a batch of {line.batch} ({line.provider})", *times)
    return table


def _labels(labelled: Path) -> NDArray[np.int64]:
    with np.load(labelled, allow_pickle=False) as archive:
        return np.asarray(archive["labels"], np.int64)
