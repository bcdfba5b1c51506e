"""A plan survives JSON, may be edited there, and a text that is none is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankfold.errors import PlanError
from rankfold.passes.plan_file import plan_digest, plan_from_json, plan_to_json
from rankfold.values import RankPlan, SiteRank

few = settings(max_examples=60, deadline=None)
shares = st.floats(0, 1)
forms = st.sampled_from(["pair", "pivoted"])
lines = st.builds(
    SiteRank,
    st.text(),
    st.integers(1, 9999),
    st.integers(1, 9999),
    st.none() | st.integers(1, 9999),
    shares,
    form=forms,
)
plans = st.builds(
    RankPlan, st.text(), st.text(), st.integers(0, 10**9), st.integers(0, 10**9), st.lists(lines, max_size=4).map(tuple)
)
PLAN = RankPlan("ab" * 32, "keep 0.5", 10, 20, (SiteRank("fc1", 64, 32, 8, 0.25), SiteRank("fc2", 32, 32, None, 0.0)))


@few
@given(plans)
def test_plans_survive_json(plan: RankPlan) -> None:
    assert plan_from_json(plan_to_json(plan)) == plan


def test_the_text_is_readable() -> None:
    text = plan_to_json(PLAN)
    content = json.loads(text)
    assert content["schema_version"] == 1
    assert (content["parameters_before"], content["parameters_after"]) == (20 + 2048 + 1024, 10 + 768 + 1024)
    assert content["kept"] == round(1802 / 3092, 6)
    (line,) = (row for row in text.splitlines() if '"fc1"' in row)  # one line per site
    assert json.loads(line.strip().rstrip(","))["rank"] == 8
    assert text.endswith("}\n")


def test_an_edited_rank_changes_the_totals() -> None:
    edited = plan_from_json(plan_to_json(PLAN).replace('"rank": 8', '"rank": 5'))
    assert edited.sites[0].rank == 5
    assert edited.parameters_after == 10 + 5 * 96 + 1024
    assert plan_from_json(plan_to_json(PLAN).replace('"rank": 8', '"rank": null')).sites[0].rank is None


def test_the_digest_is_of_the_ranks() -> None:
    text = plan_to_json(PLAN)
    assert plan_digest(PLAN) == plan_digest(plan_from_json(text.replace("0.25", "0.5")))
    assert plan_digest(PLAN) != plan_digest(plan_from_json(text.replace('"rank": 8', '"rank": 16')))
    assert len(plan_digest(PLAN)) == 16


def test_a_plan_without_forms_is_of_pairs() -> None:
    content = json.loads(plan_to_json(PLAN))
    for line in content["sites"]:
        assert line.pop("form") == "pair"
    assert plan_from_json(json.dumps(content)) == PLAN


def test_the_form_counts() -> None:
    pivoted = plan_from_json(plan_to_json(PLAN).replace('"form": "pair"', '"form": "pivoted"', 1))
    assert pivoted.sites[0].form == "pivoted"
    assert pivoted.parameters_after == PLAN.parameters_after - 8 * 8
    assert plan_digest(pivoted) != plan_digest(PLAN)
    with pytest.raises(PlanError, match=r"site 'fc1' has form 'other'; expected one of pair, pivoted"):
        plan_from_json(site(form="other"))


def changed(**parts: Any) -> str:
    return json.dumps(json.loads(plan_to_json(PLAN)) | parts)


def site(**parts: Any) -> str:
    content = json.loads(plan_to_json(PLAN))
    content["sites"][0] |= parts
    return json.dumps(content)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, "[]", "null", "7", '"text"', "{}", changed(sites=None), changed(sites=[1]),
     changed(fixed_parameters="x"),
     site(in_features=None), site(predicted_error="much")],
)  # fmt: skip
def test_a_text_that_is_no_plan_is_told(text: str) -> None:
    with pytest.raises(PlanError, match=r"not a rank plan: .*; expected JSON as `rankfold plan` writes it"):
        plan_from_json(text)


@pytest.mark.parametrize("number", ["Infinity", "1e999", "NaN"])
def test_a_number_that_is_not_finite_is_told(number: str) -> None:
    with pytest.raises(PlanError, match="not a rank plan"):
        plan_from_json(plan_to_json(PLAN).replace('"fixed_parameters": 10', f'"fixed_parameters": {number}'))


@pytest.mark.parametrize("rank", [8.0, "8", True, [8]])
def test_a_rank_that_is_no_whole_number_is_told(rank: object) -> None:
    with pytest.raises(PlanError, match=r"site 'fc1' has rank .*; expected a whole number or null"):
        plan_from_json(site(rank=rank))


def test_another_schema_is_told() -> None:
    with pytest.raises(PlanError, match="the plan has schema_version 2, expected 1; make it anew"):
        plan_from_json(changed(schema_version=2))


def test_a_missing_field_is_named() -> None:
    content = json.loads(plan_to_json(PLAN))
    del content["sites"][1]["rank"]
    with pytest.raises(PlanError, match="KeyError 'rank'"):
        plan_from_json(json.dumps(content))
