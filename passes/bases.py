"""From collected moments to the basis of each site, and whether its mean is taken out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rankfold.passes.fold import finite_weight
from rankfold.passes.loss_basis import spectrum_by_loss
from rankfold.passes.model_file import Model
from rankfold.passes.side_moments import side_moments
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan
from rankfold.passes.spectrum import Spectrum, lost_energy, measured_tails, spectrum, stacked
from rankfold.values import FloatArray, Moments, Request

# A site without bias gains an Add only where centring takes away at least this share of the lost energy; the Add is
# one more pass over the output.
_ADD_PAYS = 0.05


def site_basis(
    model: Model, scan: Scan, site: Site, collected: Mapping[Request, Moments], *, metric: FloatArray | None = None
) -> Spectrum:
    """Return a site's basis, centred where its bias can take up the mean and that pays.

    Args:
        model, scan, site: The original, its sites, and the one that is meant.
        collected: Moments of the calibration rows.
        metric: What the model's output makes of an error, in the coordinates of the weight's row space, (k, k),
            k = min(in, out); None where all errors count alike. Stacks of matrices take none.

    Raises:
        ModelError: The weight holds NaN or infinity.
    """
    weight = finite_weight(model, scan, site)
    if site.blocks > 1:
        parts = (side_moments(model, scan.index, site, collected, block=number) for number in range(site.blocks))
        return stacked([spectrum(part, seen, centred=False) for part, seen in zip(weight, parts, strict=True)])
    moments = side_moments(model, scan.index, site, collected)

    def basis(*, centred: bool) -> Spectrum:
        if metric is None:
            return spectrum(weight, moments, centred=centred)
        return spectrum_by_loss(weight, moments, metric, centred=centred)

    ways = {use.centred for use in site.uses}
    if "never" in ways:
        return basis(centred=False)
    centred = basis(centred=True)
    if "add" not in ways:
        return centred
    plain = basis(centred=False)
    return centred if _lost(centred, site) < (1 - _ADD_PAYS) * _lost(plain, site) else plain


def held_out_tails(
    model: Model, scan: Scan, site: Site, basis: Spectrum, moments: tuple[Mapping[Request, Moments], ...]
) -> FloatArray:
    """Return what each rank 0..k loses on held-out rows; `moments` are the calibration's and the held-out ones."""
    weight = finite_weight(model, scan, site)
    if site.blocks > 1:
        others = (side_moments(model, scan.index, site, moments[1], block=number) for number in range(site.blocks))
        parts = zip(weight, basis.vectors, others, strict=True)
        lost, whole = zip(*(lost_energy(part, vectors, None, other) for part, vectors, other in parts), strict=True)
        shares: FloatArray = np.sum(lost, axis=0) / max(sum(whole), np.finfo(float).tiny)
        return np.maximum(shares, 0.0)
    calibration, other = (side_moments(model, scan.index, site, collected) for collected in moments)
    return measured_tails(weight, basis, calibration, other)


def rows_warning(site: Site, rows: float) -> str | None:
    """Return what to tell a user whose data has fewer rows than features, or None."""
    features = site.in_features if site.side == "input" else site.out_features
    if rows >= features:
        return None
    return (
        f"site {site.name!r}: {rows:.0f} calibration rows for {features} features; the second moment is"
        f" rank-deficient and was damped; give at least {features} rows, better {20 * features}"
    )


def _lost(basis: Spectrum, site: Site) -> float:
    """Return the energy lost at half the break-even rank."""
    rank = site.parameters // (2 * (site.in_features + site.out_features))
    return float(np.sum(basis.values[rank:]))
