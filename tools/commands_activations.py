"""`rankfold analyze --activations`: ranks of activations, and with labels how far classes have collapsed in them."""

from __future__ import annotations

from pathlib import Path

from rankfold.options import Options
from rankfold.representations import measure_activations
from rankfold.tools.output import print_json, print_tables, print_text, print_warnings
from rankfold.tools.pictures import make_plots_folder
from rankfold.tools.representation_options import ActivationOptions
from rankfold.tools.representation_plots import PICTURES, write_plots
from rankfold.tools.representation_tables import (
    activations_table,
    correlation_lines,
    representations_to_json,
    weights_table,
)
from rankfold.tools.tables import reasons_table


def analyze_activations(
    model: Path, data: Path, chosen: ActivationOptions, *, options: Options, plots: Path | None, json: bool
) -> int:
    """Measure the chosen activations and show what was found, as pictures too where a folder is given."""
    if plots is not None:
        make_plots_folder(plots, PICTURES)
    found = measure_activations(
        model,
        data,
        patterns=chosen.activations or (),
        pooling=chosen.pooling,
        collapse=chosen.collapse,
        options=options,
    )
    notes = () if plots is None else write_plots(plots, found)
    print_warnings(found.warnings)
    if json:
        print_json(representations_to_json(found))
        return 0
    print_tables(activations_table(found))
    if found.skipped:
        print_tables(reasons_table(found.skipped))
    if found.weights:
        print_tables(weights_table(found))
    for line in (*correlation_lines(found), *notes):
        print_text(line)
    return 0
