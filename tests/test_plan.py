"""Plans of a model: budgets met, refusals that say what can be had, checks of a plan that came from elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_examples import build, collected, gaussian, opened, plan_of

from rankfold.errors import PlanError
from rankfold.passes.allocate import chosen_form
from rankfold.passes.bases import rows_warning, site_basis
from rankfold.passes.model_file import Model
from rankfold.passes.plan import check_plan, make_plan, site_curves, with_predictions
from rankfold.passes.sites import Scan, find_sites
from rankfold.passes.spectrum import Spectrum
from rankfold.values import Energy, Keep, RankPlan, folded_parameters

BODY = """g (float[n,64] x) => (float[n,48] y) {
  [a] h = Gemm(x, wa, ba)  hr = Relu(h)
  [b] k = Gemm(hr, wb, bb)  kr = Relu(k)
  [c] y = Gemm(kr, wc, bc)
}"""
SIZES = {"a": (64, 96), "b": (96, 64), "c": (64, 48)}
few = settings(max_examples=40, deadline=None)


class Bases(dict[str, Spectrum]):
    """Spectra by site, short in a failure's print."""

    def __repr__(self) -> str:
        return f"bases of {sorted(self)}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    weights = {f"w{name}": gaussian(*shape, seed=ord(name)) for name, shape in SIZES.items()}
    weights |= {f"b{name}": gaussian(shape[1], seed=1, scale=0.5) for name, shape in SIZES.items()}
    return opened(build(BODY, weights), tmp_path_factory.mktemp("plan"))


@pytest.fixture(scope="module")
def spectra(model: Model) -> Bases:
    scan = find_sites(model)
    moments = collected(model, scan, {"x": gaussian(400, 64, seed=3, scale=1.0)})
    return Bases({site.name: site_basis(model, scan, site, moments) for site in scan.sites})


def planned(model: Model, spectra: Bases, budget: Keep | Energy, *, exclude: tuple[str, ...] = ()) -> RankPlan:
    scan = find_sites(model, exclude=exclude)
    return make_plan(scan, site_curves(scan, spectra), budget, model_digest=model.digest)


DENSE = sum(a * b for a, b in SIZES.values())


def _without(exclude: tuple[str, ...]) -> list[tuple[int, int]]:
    return [shape for name, shape in SIZES.items() if name not in exclude]


@few
@given(share=st.floats(0.226, 1))
def test_a_plan_keeps_at_most_the_share(share: float, model: Model, spectra: Bases) -> None:
    plan = planned(model, spectra, Keep(share))
    assert plan.parameters_before == DENSE
    assert plan.parameters_after <= share * DENSE
    assert plan.kept == plan.parameters_after / DENSE
    for line in plan.folded:
        assert line.rank is not None
        assert line.rank % 8 == 0
        assert line.parameters < line.dense_parameters
        assert line.predicted_error == spectra[line.site].tails()[line.rank]
    check_plan(plan, find_sites(model), model_digest=model.digest)


@few
@given(first=st.floats(0.226, 1), second=st.floats(0.226, 1))
def test_more_parameters_never_predict_more_error(first: float, second: float, model: Model, spectra: Bases) -> None:
    small, large = (planned(model, spectra, Keep(share)) for share in sorted((first, second)))
    for before, after in zip(small.sites, large.sites, strict=True):
        assert after.predicted_error <= before.predicted_error
        assert after.parameters >= before.parameters


@few
@given(share=st.floats(0.01, 1))
def test_an_energy_plan_keeps_it_at_every_site_and_no_more_than_needed(
    share: float, model: Model, spectra: Bases
) -> None:
    plan = planned(model, spectra, Energy(share))
    assert plan.made_by == f"energy {share:g}"
    for line in plan.sites:
        assert line.predicted_error <= 1 - share
        below = (line.rank or 0) - 8
        if line.rank is not None and below > 0:
            assert spectra[line.site].tails()[below] > 1 - share


def test_all_of_it_keeps_every_site_dense(model: Model, spectra: Bases) -> None:
    plan = planned(model, spectra, Keep(1.0))
    assert plan.folded == ()
    assert plan.kept == 1


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [Keep, Energy])
def test_a_share_out_of_range_is_refused(
    kind: type[Keep] | type[Energy], share: float, model: Model, spectra: Bases
) -> None:
    with pytest.raises(PlanError, match=rf"the share is {share}; expected a number above 0 and at most 1"):
        planned(model, spectra, kind(share))


@few
@given(share=st.floats(0.001, 0.5), exclude=st.sampled_from([(), ("a",), ("b", "c")]))
def test_an_unreachable_share_is_told_with_one_that_can_be_had(
    share: float, exclude: tuple[str, ...], model: Model, spectra: Bases
) -> None:
    fixed = sum(SIZES[name][0] * SIZES[name][1] for name in exclude)
    folded = (folded_parameters(*shape, 8, chosen_form(8, *shape, pivots=True)) for shape in _without(exclude))
    least = fixed + sum(folded)
    if share * DENSE >= least:
        assert planned(model, spectra, Keep(share), exclude=exclude).parameters_after <= share * DENSE
        return
    with pytest.raises(PlanError, match="cannot be reached") as told:
        planned(model, spectra, Keep(share), exclude=exclude)
    assert f"{least / DENSE:.4f} of the parameters remain ({fixed:,} of {DENSE:,} lie in" in str(told.value)
    asked = re.search(r"ask for ([\d.]+) or more", str(told.value))
    assert asked is not None
    assert planned(model, spectra, Keep(float(asked[1])), exclude=exclude).parameters_after == least


def test_excluded_sites_count_in_the_share(model: Model, spectra: Bases) -> None:
    plan = planned(model, spectra, Keep(0.7), exclude=("b",))
    assert [line.site for line in plan.sites] == ["a", "c"]
    assert plan.fixed_parameters == plan.fixed_dense_parameters == 96 * 64
    assert plan.parameters_before == DENSE
    assert 0.6 < plan.kept <= 0.7


def test_a_plan_for_another_model_is_refused(model: Model) -> None:
    plan = replace(plan_of(model, find_sites(model), 8), model_digest="0" * 64)
    with pytest.raises(PlanError, match="made for a model of sha256 000000000000…, and this one has"):
        check_plan(plan, find_sites(model), model_digest=model.digest)


def test_a_plan_with_other_sites_is_refused(model: Model) -> None:
    scan = find_sites(model)
    plan = plan_of(model, scan, 8)
    with pytest.raises(PlanError, match=r"the plan has 3 sites and the model 2; .*'c' of shape \(64, 48\); use the"):
        check_plan(plan, find_sites(model, exclude=("c",)), model_digest=model.digest)
    turned = replace(plan, sites=(replace(plan.sites[0], in_features=96, out_features=64), *plan.sites[1:]))
    with pytest.raises(PlanError, match="the first that differs is 'a' of shape"):
        check_plan(turned, scan, model_digest=model.digest)


@pytest.mark.parametrize("rank", [0, -8, 49])
def test_a_rank_that_is_none_is_refused(rank: int, model: Model) -> None:
    plan = plan_of(model, find_sites(model), 8)
    edited = replace(plan, sites=(*plan.sites[:2], replace(plan.sites[2], rank=rank)))
    with pytest.raises(PlanError, match=rf"site 'c' has rank {rank} in the plan; expected 1 to 48, or null"):
        check_plan(edited, find_sites(model), model_digest=model.digest)


def test_a_site_planned_twice_is_refused(model: Model) -> None:
    plan = plan_of(model, find_sites(model), 8)
    doubled = replace(plan, sites=(*plan.sites, replace(plan.sites[0], rank=16)))
    with pytest.raises(PlanError):
        check_plan(doubled, find_sites(model), model_digest=model.digest)


def test_edited_ranks_are_predicted_anew(model: Model, spectra: Bases) -> None:
    plan = plan_of(model, find_sites(model), 8)
    edited = replace(plan, sites=(replace(plan.sites[0], rank=13), replace(plan.sites[1], rank=None), plan.sites[2]))
    found = with_predictions(edited, spectra)
    assert [line.rank for line in found.sites] == [13, None, 8]
    assert [line.predicted_error for line in found.sites] == [
        spectra["a"].tails()[13], 0.0, spectra["c"].tails()[8]
    ]  # fmt: skip


def test_few_rows_are_warned_of(model: Model) -> None:
    scan: Scan = find_sites(model)
    (site, *_) = scan.sites
    told = {rows: rows_warning(site, rows) for rows in (63, 64)}
    assert told[64] is None
    assert told[63] == (
        "site 'a': 63 calibration rows for 64 features; the second moment is rank-deficient and was damped; give at"
        " least 64 rows, better 1280"
    )
