"""How much of each weight its inputs and outputs use, beside how full of rank the weight looks alone."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from statistics import fmean

from rankfold.capture import captured
from rankfold.decide import site_spectra
from rankfold.errors import OptionsError
from rankfold.findings import Analysis
from rankfold.measures import ENERGY_SHARES, analysis_of
from rankfold.opening import open_model
from rankfold.options import Options, is_number
from rankfold.passes.fold import finite_weight
from rankfold.passes.model_file import Model
from rankfold.passes.side_moments import side_moments
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan
from rankfold.passes.utilized import (
    STACKED,
    directions,
    has_inputs,
    measured_loss,
    seen_from_input,
    weight_ranks,
)
from rankfold.projections import SiteUtilization, UtilizedRank
from rankfold.runtime_calib.feeds import DataLike
from rankfold.runtime_calib.threads import limited_threads
from rankfold.values import Calibration, FloatArray, Skipped


@dataclass(frozen=True)
class Utilization:
    """What a model uses of its weights.

    Attributes:
        analysis: Its sites, and the nodes left alone.
        shares: Of the variance, as they were asked for.
        sites: In graph order.
        left: Foldable sites without a utilized rank, and why.
    """

    analysis: Analysis
    shares: tuple[float, ...]
    sites: tuple[SiteUtilization, ...]
    left: tuple[Skipped, ...]

    @property
    def mlu(self) -> dict[float, float]:
        """Return the mean layer utilization of each share: the plain mean over the sites; NaN without any."""
        return {
            share: fmean(site.shares[place].utilization for site in self.sites) if self.sites else math.nan
            for place, share in enumerate(self.shares)
        }


def utilization(
    model: str | os.PathLike[str],
    data: DataLike,
    *,
    shares: tuple[float, ...] = ENERGY_SHARES,
    options: Options = Options(),
) -> Utilization:
    """Return the utilized rank of every site at several shares of the variance, from one pass over the data.

    Args:
        model: The ONNX file.
        data: Calibration data: a path, or an iterable of feed dicts.
        shares: Of the variance of inputs and of outputs, each in (0, 1]; at 1 it is all that stands above rounding.
        options: `centred` decides what variances are about.

    Raises:
        OptionsError: A share is outside of (0, 1], or there is none.
        ModelError: The model cannot be used.
        CalibrationDataError: The data does not fit.
    """
    wrong = [share for share in shares if not is_number(share) or not 0 < share <= 1]
    if wrong or not shares:
        raise OptionsError(f"shares is {shares!r}; expected numbers above 0 and at most 1, such as (0.95, 0.99)")
    loaded, found = open_model(model, options)
    scan = seen_from_input(found)
    with captured(loaded, scan, data, options) as calibration, limited_threads():
        spectra, warnings = site_spectra(loaded, scan, calibration, options)
        seen = [site for site in scan.sites if has_inputs(site)]
        sites = tuple(
            _site_utilization((loaded, scan), site, calibration, shares, centred=options.centred)
            for site in options.progress(seen, "utilized ranks", len(seen))
        )
    left = tuple(Skipped(site.name, site.op_type, STACKED) for site in scan.sites if not has_inputs(site))
    return Utilization(analysis_of(loaded, scan, spectra, warnings), shares, sites, left)


def _site_utilization(
    opened: tuple[Model, Scan], site: Site, calibration: Calibration, shares: tuple[float, ...], *, centred: bool
) -> SiteUtilization:
    model, scan = opened
    weight = finite_weight(model, scan, site)
    moments = side_moments(model, scan.index, site, calibration.moments)
    other = side_moments(model, scan.index, site, calibration.held_out)
    found = directions(weight, moments, centred=centred)
    alone, spectrum = weight_ranks(weight, dtype=site.stored_dtype)
    ranks = []
    for share in shares:
        projection = found.projection(share)
        ranks.append(
            UtilizedRank(
                share=share,
                inputs=projection.inputs,
                outputs=projection.outputs,
                rank=projection.rank,
                utilization=projection.rank / min(weight.shape),
                losses=found.losses(projection),
                held_out=measured_loss(weight, found, projection, (moments, other)),
            )
        )
    return SiteUtilization(
        name=site.name,
        op_type=site.op_type,
        in_features=site.in_features,
        out_features=site.out_features,
        depth=site.uses[0].node,
        rows=int(moments.count),
        centred=centred,
        weight=alone,
        shares=tuple(ranks),
        weight_spectrum=tuple(spectrum.tolist()),
        input_spectrum=_shares(found.inputs),
        output_spectrum=_shares(found.outputs),
    )


def _shares(variances: FloatArray) -> tuple[float, ...]:
    whole = float(variances.sum())
    return tuple((variances / whole).tolist() if whole else variances.tolist())
