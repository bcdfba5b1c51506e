"""`rankfold heal`: bringing a compressed model nearer to the original."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rankfold.heal_model import PASSES, heal
from rankfold.healing import How
from rankfold.tools.heal_text import heal_tables, healed_to_json
from rankfold.tools.limits import error_limit
from rankfold.tools.options import (
    CalibrationOptions,
    OutputChoice,
    RunOptions,
    ShowOptions,
    is_not_negative,
    is_positive,
    stage_options,
)
from rankfold.tools.output import exit_code, print_json, print_tables, print_text
from rankfold.tools.progress import shown_progress
from rankfold.tools.run_notes import note_output_folder

_ALL_OUTPUTS = OutputChoice()
_CALIBRATION = CalibrationOptions()
_RUN = RunOptions()
_SHOW = ShowOptions()


def heal_command(
    base: Path,
    candidate: Path,
    /,
    *,
    data: Path,
    out: Annotated[Path, Parameter(name="-o")],
    how: How = "refit",
    passes: Annotated[int, Parameter(validator=is_positive)] = PASSES,
    exclude: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    max_error: Annotated[float | None, Parameter(validator=is_not_negative)] = None,
    choice: OutputChoice = _ALL_OUTPUTS,
    calibration: CalibrationOptions = _CALIBRATION,
    run: RunOptions = _RUN,
    show: ShowOptions = _SHOW,
) -> int:
    """Bring a compressed model nearer to the original, without a change to its size, its speed or its graph.

    Args:
        base: The original ONNX model.
        candidate: What rankfold made of it.
        data: Data: .npz, folder of .npz, Polygraphy inputs JSON, or a Python script with load_data().
        out: The healed model to write.
        how: refit: factors and biases in closed form; distill: then trained toward the original's outputs; finetune:
            then trained on `labels` too. The last two need torch.
        passes: Passes over the data while training, at most.
        exclude: Leave a weight that matches this pattern (*, ?, [abc]) as it is, by node name, operator or weight
            name, where it was not folded: training changes weights of layers that were left dense, too. May be given
            again.
        max_error: Largest relative L2 error allowed of any compared output; exit 1 when exceeded.
    """
    note_output_folder(out.parent)
    with shown_progress(quiet=show.quiet) as progress:
        stated = stage_options(run=run, calibration=calibration, choice=choice, progress=progress)
        options = replace(stated, exclude=exclude)
        healed = heal(base, candidate, data, how=how, output=out, passes=passes, options=options)
    limits = error_limit(healed.after, max_error)
    if show.json:
        print_json(healed_to_json(healed, limits=limits))
        return exit_code(limits)
    print_tables(*heal_tables(healed))
    print_text(f"Model: {healed.path}")
    return exit_code(limits)
