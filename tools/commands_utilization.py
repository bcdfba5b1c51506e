"""`rankfold analyze --utilization`: how many directions of inputs and outputs each weight uses."""

from __future__ import annotations

from pathlib import Path

from rankfold import pipeline
from rankfold.options import Options
from rankfold.tools.analysis_text import print_analysis
from rankfold.tools.output import print_json, print_tables, print_text, print_warnings
from rankfold.tools.pictures import make_plots_folder
from rankfold.tools.utilization_options import UtilizationOptions
from rankfold.tools.utilization_plots import PICTURES, write_plots
from rankfold.tools.utilization_text import directions_table, mlu_text, utilization_to_json, weights_table


def analyze_utilization(
    model: Path, data: Path, chosen: UtilizationOptions, *, options: Options, plots: Path | None, json: bool
) -> int:
    """Show what each weight uses, as pictures too where a folder is given."""
    if plots is not None:
        make_plots_folder(plots, PICTURES)
    found = pipeline.utilization(model, data, shares=chosen.shares, options=options)
    notes = () if plots is None else write_plots(plots, found)
    print_warnings(found.analysis.warnings)
    if json:
        print_json(utilization_to_json(found))
        return 0
    print_analysis(found.analysis)
    print_tables(weights_table(found), directions_table(found))
    for text in filter(None, (mlu_text(found), *notes)):
        print_text(text)
    return 0
