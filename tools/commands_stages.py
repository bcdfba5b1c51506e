"""The stages before folding, each by itself: `rankfold analyze`, `calibrate` and `plan`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rankfold import pipeline
from rankfold.options import Options
from rankfold.passes.plan_file import plan_to_json
from rankfold.passes.write_model import check_no_input, check_writable
from rankfold.tools.analysis_text import print_analysis
from rankfold.tools.commands_activations import analyze_activations
from rankfold.tools.commands_utilization import analyze_utilization
from rankfold.tools.options import (
    Budget,
    CalibrationOptions,
    RunOptions,
    Selection,
    ShowOptions,
    UsageError,
    chosen_budget,
    stage_options,
)
from rankfold.tools.output import print_json, print_tables, print_text, print_warnings
from rankfold.tools.progress import shown_progress
from rankfold.tools.report_files import write_text
from rankfold.tools.report_json import analysis_to_json, calibration_to_json
from rankfold.tools.representation_options import ActivationOptions, check_activation_options
from rankfold.tools.run_notes import note_output_folder
from rankfold.tools.tables import plan_table
from rankfold.tools.utilization_options import UtilizationOptions, check_utilization

_NO_BUDGET = Budget()
_ALL = Selection()
_NO_ACTIVATIONS = ActivationOptions()
_CALIBRATION = CalibrationOptions()
_NO_UTILIZATION = UtilizationOptions()
_RUN = RunOptions()
_SHOW = ShowOptions()


def analyze(
    model: Path,
    /,
    *,
    data: Path | None = None,
    plots: Path | None = None,
    activations: ActivationOptions = _NO_ACTIVATIONS,
    selection: Selection = _ALL,
    utilized: UtilizationOptions = _NO_UTILIZATION,
    calibration: CalibrationOptions = _CALIBRATION,
    run: RunOptions = _RUN,
    show: ShowOptions = _SHOW,
) -> int:
    """List the weights that can be folded, and every linear node that cannot, with the reason.

    Args:
        model: The ONNX model.
        data: Calibration data; with it, the ranks that hold most of each output's energy are listed too.
        plots: Folder for pictures of --utilization or --activations; they need matplotlib.
    """
    check_utilization(utilized, data)
    check_activation_options(activations, data, calibration.checkpoint)
    _check_plots(plots, utilization=utilized.utilization, activations=activations.activations is not None)
    with shown_progress(quiet=show.quiet) as progress:
        options = stage_options(run=run, calibration=calibration, selection=selection, progress=progress)
        if activations.activations is not None and data is not None:
            return analyze_activations(model, data, activations, options=options, plots=plots, json=show.json)
        if utilized.utilization and data is not None:
            options = replace(options, centred=not utilized.about_zero)
            return analyze_utilization(model, data, utilized, options=options, plots=plots, json=show.json)
        found = pipeline.analyze(model, data, options=options)
    print_warnings(found.warnings)
    if show.json:
        print_json(analysis_to_json(found))
        return 0
    print_analysis(found)
    return 0


def _check_plots(plots: Path | None, *, utilization: bool, activations: bool) -> None:
    """Check that there is one thing to show, and something to draw where pictures are wanted.

    Raises:
        UsageError: There is not.
    """
    if utilization and activations:
        raise UsageError("--utilization and --activations show different things; give one at a time")
    if plots is not None and not (utilization or activations):
        raise UsageError("--plots goes with --utilization or --activations")


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
