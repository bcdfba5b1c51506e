"""Counting and summing up: parameters, sizes, versions, and what became of each site."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from importlib import metadata
from importlib.metadata import PackageNotFoundError

import numpy as np
from onnx import ModelProto

from rankfold.findings import Analysis, SiteOutcome, SiteSummary, Size
from rankfold.passes.graph_checks import all_tensors
from rankfold.passes.model_file import Model
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan
from rankfold.passes.spectrum import Spectrum
from rankfold.values import Calibration, FloatArray, RankPlan

ENERGY_SHARES = (0.9, 0.95, 0.99, 0.999)
_PACKAGES = (
    "numpy",
    "scipy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnx-graphsurgeon",
    "polygraphy",
)


def break_even_rank(in_features: int, out_features: int) -> int:
    """Return the largest rank at which a plain pair holds fewer parameters than the weight; 0 if there is none."""
    return (in_features * out_features - 1) // (in_features + out_features)


def analysis_of(model: Model, scan: Scan, spectra: Mapping[str, Spectrum], warnings: tuple[str, ...]) -> Analysis:
    """Return what a model holds that can be folded, with the ranks it uses where spectra are there."""
    return Analysis(
        model_digest=model.digest,
        sites=site_summaries(scan, spectra),
        skipped=scan.skipped,
        folded_before=len(scan.pairs),
        foldable_parameters=scan.fixed_dense_parameters + sum(site.parameters for site in scan.sites),
        warnings=warnings,
        inlined=model.inlined,
    )


def site_summaries(scan: Scan, spectra: Mapping[str, Spectrum]) -> tuple[SiteSummary, ...]:
    """Return each site as it stands, with the ranks it uses where spectra are there."""
    return tuple(_summary(site, spectra.get(site.name)) for site in scan.sites)


def site_outcomes(
    scan: Scan, plan: RankPlan, spectra: Mapping[str, Spectrum], held_out: Mapping[str, FloatArray]
) -> tuple[SiteOutcome, ...]:
    """Return what became of each site: its error on calibration rows, and on rows that decided nothing.

    Args:
        scan: The sites.
        plan: Their ranks.
        spectra: Their bases; vectors are not read.
        held_out: What each rank 0..k loses on held-out rows, by site name.
    """
    lines = {line.site: line for line in plan.sites}
    outcomes = []
    for site in scan.sites:
        line, basis = lines[site.name], spectra[site.name]
        error = 0.0 if line.rank is None else float(held_out[site.name][line.rank])
        outcomes.append(
            SiteOutcome(
                name=site.name,
                op_type=site.op_type,
                in_features=site.in_features,
                out_features=site.out_features,
                rank=line.rank,
                parameters_before=line.dense_parameters,
                parameters_after=line.parameters,
                predicted_error=line.predicted_error,
                measured_error=error,
                damping=basis.damping,
                rows=int(basis.rows),
                centred=basis.centred,
                blocks=site.blocks,
                form=line.form,
            )
        )
    return tuple(outcomes)


def rows_per_sample(scan: Scan, calibration: Calibration) -> dict[str, float]:
    """Return how many rows each site is given per sample, all its uses together; of a stack the mean over blocks.

    Rows that a padding mask leaves out do not count.
    """
    return {
        site.name: sum(
            calibration.moments[request].count * calibration.row_strides.get(request, 1) for request in site.requests
        )
        / max(calibration.samples, 1)
        / site.blocks
        for site in scan.sites
    }


def parameter_count(proto: ModelProto) -> int:
    """Return the elements of all tensors that a model holds: initializers and constants, those of bodies too."""
    return sum(math.prod(tensor.dims) for tensor in all_tensors(proto))


def versions() -> dict[str, str]:
    """Return the versions of everything that decides the result."""
    found = {"python": platform.python_version()}
    for name in ("rankfold", *_PACKAGES):
        try:
            found[name] = metadata.version(name)
        except PackageNotFoundError:
            continue
    return found


def _summary(site: Site, basis: Spectrum | None) -> SiteSummary:
    tails = None if basis is None else basis.tails()
    return SiteSummary(
        name=site.name,
        op_type=site.op_type,
        in_features=site.in_features,
        out_features=site.out_features,
        uses=len(site.uses),
        break_even_rank=break_even_rank(site.in_features, site.out_features),
        numerical_rank=None if basis is None else basis.numerical_rank,
        energy_ranks={} if tails is None else {share: int(np.argmax(tails <= 1 - share)) for share in ENERGY_SHARES},
        rows=0 if basis is None else int(basis.rows),
        blocks=site.blocks,
    )


def sizes(before: Model, after: Model, plan: RankPlan) -> tuple[Size, Size, Size]:
    """Return linear parameters, all parameters, and bytes on disk, each before and after."""
    return (
        Size(plan.parameters_before, plan.parameters_after),
        Size(parameter_count(before.proto), parameter_count(after.proto)),
        Size(before.size_bytes, after.size_bytes),
    )
