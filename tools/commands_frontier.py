"""`rankfold frontier`: the whole curve of size against loss, in one run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rankfold import pipeline
from rankfold.frontier import KEEPS
from rankfold.passes.write_model import check_writable
from rankfold.tools.frontier_files import FRONTIER, drawing, frontier_table, frontier_to_json, write_frontier
from rankfold.tools.options import (
    CalibrationOptions,
    OutputChoice,
    RunOptions,
    Selection,
    ShowOptions,
    UsageError,
    stage_options,
)
from rankfold.tools.output import print_json, print_tables, print_text, print_warnings
from rankfold.tools.progress import shown_progress
from rankfold.tools.report_files import make_folder
from rankfold.tools.target_options import SearchOptions, with_search

_ALL = Selection()
_ALL_OUTPUTS = OutputChoice()
_CALIBRATION = CalibrationOptions()
_SEARCH = SearchOptions()
_RUN = RunOptions()
_SHOW = ShowOptions()


def frontier(
    model: Path,
    /,
    *,
    data: Path,
    out: Annotated[Path | None, Parameter(name="-o")] = None,
    keeps: Annotated[tuple[float, ...], Parameter(consume_multiple=True, negative="")] = KEEPS,
    selection: Selection = _ALL,
    choice: OutputChoice = _ALL_OUTPUTS,
    calibration: CalibrationOptions = _CALIBRATION,
    search: SearchOptions = _SEARCH,
    run: RunOptions = _RUN,
    show: ShowOptions = _SHOW,
) -> int:
    """Find the best plan for several sizes with one calibration, and show what each loses.

    Args:
        model: The ONNX model.
        data: Calibration data: .npz, folder of .npz, Polygraphy inputs JSON, or a Python script with load_data().
        out: Folder for frontier.json, one plan per point (for `compress --plan`) and frontier.svg.
        keeps: Shares of the parameters, in (0, 1]; those that cannot be reached are left out.
    """
    wrong = [keep for keep in keeps if not 0 < keep <= 1]
    if wrong or not keeps:
        raise UsageError(f"--keeps is {' '.join(map(str, keeps))}; expected numbers above 0 and at most 1")
    if out is not None:
        make_folder(out)
        check_writable(out / FRONTIER)
    with shown_progress(quiet=show.quiet) as progress:
        options = stage_options(run=run, calibration=calibration, selection=selection, choice=choice)
        options = replace(with_search(options, search), progress=progress)
        found = pipeline.frontier(model, data, keeps=keeps, options=options)
    notes = () if out is None else write_frontier(out, found)
    print_warnings(found.warnings)
    if show.json:
        print_json(frontier_to_json(found))
        return 0
    print_tables(frontier_table(found))
    print_text(drawing(found))
    for note in notes:
        print_text(note)
    return 0
