"""The stages before folding, each by itself: `rankfold analyze`, `calibrate` and `plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rankfold import pipeline
from rankfold.options import Options
from rankfold.passes.plan_file import plan_to_json
from rankfold.passes.write_model import check_no_input, check_writable
from rankfold.tools.commands_activations import analyze_activations
from rankfold.tools.options import (
    Budget,
    CalibrationOptions,
    RunOptions,
    Selection,
    ShowOptions,
    chosen_budget,
    stage_options,
)
from rankfold.tools.output import print_json, print_tables, print_text, print_warnings
from rankfold.tools.progress import shown_progress
from rankfold.tools.report_files import write_text
from rankfold.tools.report_json import analysis_to_json, calibration_to_json
from rankfold.tools.representation_options import ActivationOptions, check_activation_options
from rankfold.tools.run_notes import note_output_folder
from rankfold.tools.tables import analysis_table, plan_table, skipped_table

_NO_BUDGET = Budget()
_ALL = Selection()
_NO_ACTIVATIONS = ActivationOptions()
_CALIBRATION = CalibrationOptions()
_RUN = RunOptions()
_SHOW = ShowOptions()


def analyze(
    model: Path,
    /,
    *,
    data: Path | None = None,
    activations: ActivationOptions = _NO_ACTIVATIONS,
    selection: Selection = _ALL,
    calibration: CalibrationOptions = _CALIBRATION,
    run: RunOptions = _RUN,
    show: ShowOptions = _SHOW,
) -> int:
    """List the weights that can be folded, and every linear node that cannot, with the reason.

    Args:
        model: The ONNX model.
        data: Calibration data; with it, the ranks that hold most of each output's energy are listed too.
    """
    check_activation_options(activations, data, calibration.checkpoint)
    with shown_progress(quiet=show.quiet) as progress:
        options = stage_options(run=run, calibration=calibration, selection=selection, progress=progress)
        if activations.activations is not None and data is not None:
            return analyze_activations(model, data, activations, options=options, json=show.json)
        found = pipeline.analyze(model, data, options=options)
    print_warnings(found.warnings)
    if show.json:
        print_json(analysis_to_json(found))
        return 0
    print_tables(analysis_table(found))
    if found.skipped:
        print_tables(skipped_table(found.skipped))
    print_text(f"Foldable weights: {found.foldable_parameters:,} parameters")
    if found.inlined:
        print_text(f"Local functions to be put in line: {', '.join(found.inlined)}")
    if found.folded_before:
        print_text(f"Folded by an earlier run: {found.folded_before} weights; they are left alone")
    return 0


def calibrate(
    model: Path,
    /,
    *,
    data: Path,
    out: Annotated[Path, Parameter(name="-o")],
    selection: Selection = _ALL,
    calibration: CalibrationOptions = _CALIBRATION,
    run: RunOptions = _RUN,
    show: ShowOptions = _SHOW,
) -> int:
    """Run the model over the data and save what was collected, for `rankfold plan`.

    Args:
        model: The ONNX model.
        data: Calibration data: .npz, folder of .npz, Polygraphy inputs JSON, or a Python script with load_data().
        out: The .npz to write.
    """
    note_output_folder(out.parent)
    check_writable(out)
    check_no_input(out, (model, data))
    with shown_progress(quiet=show.quiet) as progress:
        options = stage_options(run=run, calibration=calibration, selection=selection, progress=progress)
        found = pipeline.calibrate(model, data, output=out, options=options)
    if show.json:
        print_json(calibration_to_json(found, out))
    else:
        samples = f"{found.samples:,} calibration and {found.held_out_samples:,} held-out samples"
        print_text(f"{out}: {len(found.moments)} tensors over {samples}")
    return 0


def plan(
    model: Path,
    /,
    *,
    calibration: Path,
    out: Annotated[Path, Parameter(name="-o")],
    budget: Budget = _NO_BUDGET,
    selection: Selection = _ALL,
    show: ShowOptions = _SHOW,
) -> int:
    """Choose a rank for every site and save the plan; its ranks may be edited by hand.

    Args:
        model: The ONNX model.
        calibration: What `rankfold calibrate` wrote for this model.
        out: The plan.json to write.
    """
    wanted = chosen_budget(budget)
    check_writable(out)
    check_no_input(out, (model, calibration))
    made = pipeline.make_plan(
        model,
        pipeline.load_calibration(calibration),
        budget=wanted,
        options=Options(include=selection.include, exclude=selection.exclude),
    )
    write_text(out, plan_to_json(made))
    if show.json:
        print_text(plan_to_json(made).rstrip("\n"))
    else:
        print_tables(plan_table(made))
        print_text(f"Plan: {out}")
    return 0
