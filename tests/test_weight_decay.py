"""Weight decay from step to step, and which parameters it is of."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from rankfold.errors import OptionsError
from rankfold.models.recipe import Recipe, build_optimizer, decay_schedule
from rankfold.training.weight_decay import DecaySchedule, decay_factor, parameter_groups, set_weight_decay

VALUES = [
    (DecaySchedule(), [1, 1, 1, 1, 1]),
    (DecaySchedule("linear"), [1, 0.75, 0.5, 0.25, 0]),
    (DecaySchedule("linear", end=5), [1, 2, 3, 4, 5]),
    (DecaySchedule("cosine"), [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]),
    (DecaySchedule("cosine", end=0.5), [1, 0.75 + 0.25 * math.sqrt(0.5), 0.75, 0.75 - 0.25 * math.sqrt(0.5), 0.5]),
    (DecaySchedule(warmup_steps=4), [0.25, 0.5, 0.75, 1, 1]),
    (DecaySchedule("linear", warmup_steps=2), [0.5, 1, 1, 0.5, 0]),
    (DecaySchedule("cosine", warmup_steps=2, end=0.2), [0.5, 1, 1, 0.6, 0.2]),
    (DecaySchedule("linear", warmup_steps=10), [0.1, 0.2, 0.3, 0.4, 0.5]),
    (DecaySchedule("linear", warmup_steps=4), [0.25, 0.5, 0.75, 1, 1]),
]


@pytest.mark.parametrize(("schedule", "factors"), VALUES)
def test_factors_are_those_of_the_formula(schedule: DecaySchedule, factors: list[float]) -> None:
    found = [decay_factor(schedule, step, 5) for step in range(5)]
    assert found == pytest.approx(factors, rel=0, abs=1e-15)  # some roundings of numbers about 1


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adam, torch.optim.RMSprop])
def test_groups_follow_and_those_without_stay(kind: type[torch.optim.Optimizer], tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = kind(parameter_groups(model, 0.2), lr=0.1)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, 2))], "weight_decay": 0.1})
    set_weight_decay(optimizer, 0.0)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.0, 0.0]
    set_weight_decay(optimizer, 0.5)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0, 0.05]
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    set_weight_decay(optimizer, 2.0)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.4, 0.0, 0.2]


def test_a_step_decays_by_the_factor() -> None:
    weight = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    optimizer = torch.optim.SGD([{"params": [weight], "weight_decay": 0.2}], lr=0.5)
    weight.grad = torch.zeros_like(weight)
    for factor in (1.0, 0.5, 0.0):
        set_weight_decay(optimizer, factor)
        optimizer.step()
    expected = torch.full((2, 2), (1 - 0.1) * (1 - 0.05), dtype=torch.float64)
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-15)


def test_matrices_and_kernels_alone_decay() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    model.register_parameter("position", nn.Parameter(torch.ones(1, 3)))
    decayed, free = parameter_groups(model, 0.1, free={"position"})
    assert [tuple(value.shape) for value in decayed["params"]] == [(2, 1, 3, 3), (2, 8)]
    assert [tuple(value.shape) for value in free["params"]] == [(1, 3), (2,), (2,), (2,), (2,)]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    groups = build_optimizer(model, Recipe(weight_decay=0.3)).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(2, 0.3), (5, 0.0)]


def test_a_recipe_counts_its_warm_up_in_epochs() -> None:
    recipe = Recipe(decay_form="cosine", decay_end=0.1, decay_warmup_epochs=1.5)
    assert decay_schedule(10, recipe) == DecaySchedule("cosine", 0.1, 15)


WRONG = [
    ({"form": "square"}, "form is 'square'; expected one of constant, linear, cosine"),
    ({"form": "linear", "end": -1.0}, r"end is -1\.0; expected a factor from 0 on"),
    ({"end": 0.5}, r"end is 0\.5 with a constant form; choose linear or cosine"),
    ({"warmup_steps": -1}, "warmup_steps is -1; expected 0 or more"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_schedules_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        DecaySchedule(**settings)


def test_steps_outside_are_refused() -> None:
    with pytest.raises(OptionsError, match="step 5 of 5; expected 0 to 4"):
        decay_factor(DecaySchedule(), 5, 5)
