"""`rankfold attack`: its table, JSON and pictures, and usage errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from attack_examples import write_case
from command_examples import parsed, run

# It imports scipy.stats, which asks torch for its tensors even where a test has put None in torch's place.
import rankfold.robustness  # noqa: F401

COMMAND = ("attack", "model.onnx", "--data", "data.npz", "--quiet", "--batch-size", "32")
PAIR = (*COMMAND, "--candidate", "near.onnx", "--steps", "5", "--eps", "0.05", "0.1", "0.2")


@pytest.fixture(autouse=True)
def folder(working_folder: Path) -> Path:
    write_case(working_folder)
    return working_folder


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.startswith("rankfold.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    run(*COMMAND, code=3)
    assert "attacks by gradients need torch, which is not installed; run `pip install" in capsys.readouterr().err


def test_the_table_and_what_it_rests_on(capsys: pytest.CaptureFixture[str]) -> None:
    run(*PAIR)
    page = capsys.readouterr().out
    assert "Accuracy under attack, % of 60 samples (95 % interval); ε by L∞" in page
    lines = [line.split() for line in page.splitlines()]
    assert [line[2] for line in lines if line[:2] == ["pgd", "0.2"]] == ["model.onnx", "near.onnx"]
    assert "as the samples hold; --clip states others" in page
    assert "these are upper bounds of the robust accuracy" in page


def test_json_holds_every_pair(capsys: pytest.CaptureFixture[str]) -> None:
    run(*PAIR, "--clip", "0", "1", "--json", "--norm", "l2", "--restarts", "2", "--seed", "3")
    found = parsed(capsys.readouterr().out)
    assert found["samples"] == 60
    assert found["threat"] | {"mean": 0, "std": 0} == {
        "norm": "l2",
        "eps": [0.05, 0.1, 0.2],
        "clip": [0.0, 1.0],
        "clip_from": "stated",
        "mean": 0,
        "std": 0,
        "pgd": {"steps": 5, "step_size": 0.5, "restarts": 2},
    }
    assert found["seed"] == 3
    pairs = {(part["attack"], part["eps"], part["made_on"], part["scored_on"]) for part in found["robust"]}
    assert len(pairs) == len(found["robust"]) == 2 * 3 * 4
    for part in found["robust"]:
        low, high = part["interval_percent"]
        assert low <= part["percent"] == 100 * part["count"] / 60 <= high


USAGE = [
    (("--eps", "-0.1"), "must be 0 or more"),
    (("--clip", "1", "0"), "--clip is 1 0; expected a lowest value below the highest"),
    (("--steps", "0"), "must be above 0"),
    (("--std", "0"), "must be above 0"),
    (("--norm", "l7"), "l7"),
]


@pytest.mark.parametrize(("words", "message"), USAGE)
def test_wrong_options_are_usage_errors(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*COMMAND, *words, code=2)
    assert message in capsys.readouterr().err


def test_pictures_are_refused_in_advance_without_matplotlib(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run(*COMMAND, "--plots", "pictures", code=3)
    assert "--plots needs matplotlib, which is not installed" in capsys.readouterr().err
    assert not Path("pictures").exists()


def test_pictures_are_drawn_and_the_same_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    run(*PAIR, "--plots", "one")
    run(*PAIR, "--plots", "two")
    assert "Picture: one/robustness.svg" in capsys.readouterr().out
    page = Path("one/robustness.svg").read_bytes()
    assert page.startswith(b"<?xml")
    assert page == Path("two/robustness.svg").read_bytes()
