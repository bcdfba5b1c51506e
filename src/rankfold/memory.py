"""How memory is kept within its bounds, and what a reader of a report should know of it."""

from __future__ import annotations

from rankfold.options import Options
from rankfold.passes.model_file import Model
from rankfold.values import Calibration


def runs_lean(model: Model, options: Options) -> bool:
    """Tell whether a model is run without onnxruntime's own copies of its weights: where they exceed the memory."""
    return model.size_bytes > options.memory_bytes


def memory_notes(model: Model, calibration: Calibration, options: Options) -> tuple[str, ...]:
    """Return what a reader of a report should know of how memory was kept within its bounds."""
    notes, room = [], f"{options.memory_bytes:,} bytes of memory"
    sweeps = calibration.settings.get("sweeps")
    if isinstance(sweeps, int) and sweeps > 1:
        notes.append(
            f"the sums of all layers do not fit in {room}: they were collected in {sweeps} sweeps over the data"
        )
    if runs_lean(model, options):
        notes.append(
            f"the weights have more than {room}: both models were run without the prepacked copies that onnxruntime"
            " makes of them, also when they were timed"
        )
    return tuple(notes)
