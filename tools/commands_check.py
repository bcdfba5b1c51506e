"""Comparing two models: `rankfold validate` and `rankfold bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rankfold import pipeline
from rankfold.tools.limits import error_limit, speedup_limit
from rankfold.tools.options import OutputChoice, RunOptions, ShowOptions, is_not_negative, is_positive, stage_options
from rankfold.tools.output import exit_code, print_json, print_tables
from rankfold.tools.progress import shown_progress
from rankfold.tools.report_json import bench_to_json, validation_to_json
from rankfold.tools.tables import discrepancy_table, latency_table

_ALL_OUTPUTS = OutputChoice()
_RUN = RunOptions()
_SHOW = ShowOptions()


def validate(
    base: Path,
    candidate: Path,
    /,
    *,
    data: Path,
    max_error: Annotated[float | None, Parameter(validator=is_not_negative)] = None,
    choice: OutputChoice = _ALL_OUTPUTS,
    run: RunOptions = _RUN,
    show: ShowOptions = _SHOW,
) -> int:
    """Compare the outputs of two models on all samples of the data.

    Args:
        base: The original ONNX model.
        candidate: The model that is compared with it.
        data: Data: .npz, folder of .npz, Polygraphy inputs JSON, or a Python script with load_data().
        max_error: Largest relative L2 error allowed of any compared output; exit 1 when exceeded.
    """
    with shown_progress(quiet=show.quiet) as progress:
        options = stage_options(run=run, choice=choice, progress=progress)
        discrepancy = pipeline.validate(base, candidate, data, options=options)
    limits = error_limit(discrepancy, max_error)
    if show.json:
        print_json(validation_to_json(discrepancy, limits=limits))
    else:
        print_tables(discrepancy_table(discrepancy))
    return exit_code(limits)


def bench(
    base: Path,
    candidate: Path,
    /,
    *,
    data: Path,
    min_speedup: Annotated[float | None, Parameter(validator=is_positive)] = None,
    run: RunOptions = _RUN,
    show: ShowOptions = _SHOW,
) -> int:
    """Time two models side by side in one process, at batch 1 and at --batch-size.

    Args:
        base: The original ONNX model.
        candidate: The model that is compared with it.
        data: Data: .npz, folder of .npz, Polygraphy inputs JSON, or a Python script with load_data().
        min_speedup: Smallest speed-up allowed at any measured batch size; exit 1 when it is not reached.
    """
    with shown_progress(quiet=show.quiet) as progress:
        latency = pipeline.bench(base, candidate, data, options=stage_options(run=run, progress=progress))
    limits = speedup_limit(latency, min_speedup)
    if show.json:
        print_json(bench_to_json(latency, limits=limits))
    else:
        print_tables(latency_table(latency))
    return exit_code(limits)
