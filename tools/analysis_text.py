"""What `rankfold analyze` prints of the weights that can be folded."""

from __future__ import annotations

from rankfold.findings import Analysis
from rankfold.tools.output import print_tables, print_text
from rankfold.tools.tables import analysis_table, skipped_table


def print_analysis(found: Analysis) -> None:
    """Print the sites, the nodes left alone and why, and what they come to."""
    print_tables(analysis_table(found))
    if found.skipped:
        print_tables(skipped_table(found.skipped))
    print_text(f"Foldable weights: {found.foldable_parameters:,} parameters")
    if found.inlined:
        print_text(f"Local functions to be put in line: {', '.join(found.inlined)}")
    if found.folded_before:
        print_text(f"Folded by an earlier run: {found.folded_before} weights; they are left alone")
