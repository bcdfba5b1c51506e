"""`rankfold analyze --activations` on the command line: tables, JSON, pictures and usage."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from command_examples import FEATURES, SAMPLES, fill_folder, parsed, run

ANALYZE = ("analyze", "model.onnx", "--data", "data.npz", "--quiet", "--activations")


@pytest.fixture(autouse=True)
def folder(working_folder: Path) -> Path:
    fill_folder(working_folder)
    with np.load("data.npz") as archive:
        rows = archive["x"]
    np.savez("labelled.npz", x=rows, labels=np.arange(SAMPLES) % 5)
    return working_folder


def test_all_activations_without_labels(capsys: pytest.CaptureFixture[str]) -> None:
    run(*ANALYZE, "--json")
    found = parsed(capsys.readouterr().out)
    assert [line["tensor"] for line in found["activations"]] == ["x", "h", "a", "r", "y"]
    assert found["activations"][0]["features"] == FEATURES
    assert found["activations"][0]["ranks"]["share_ranks"]["0.99"] == 8  # of eight directions, and a little noise
    assert found["activations"][0]["collapse"] is None
    assert found["weights"] == []
    run(*ANALYZE)
    output = capsys.readouterr().out
    assert "Activations: 5 (a row is a position)" in output
    assert "NC1" not in output


def test_labels_add_collapse_and_weights(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("analyze", "model.onnx", "--data", "labelled.npz", "--quiet", "--activations", "x", "Relu", "--collapse")
    run(*words, "--json")
    found = parsed(capsys.readouterr().out)
    assert [line["tensor"] for line in found["activations"]] == ["x", "r"]
    assert found["classes"] == {str(label): SAMPLES // 5 for label in range(5)}
    assert all(0 < line["collapse"]["within_share"] <= 1 for line in found["activations"])
    assert [weight["activation"] for weight in found["weights"]] == ["x", "r"]
    run(*words)
    output = capsys.readouterr().out
    assert "NC1" in output
    assert "distance to rank 5" in output


def test_pictures_are_drawn_where_matplotlib_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("analyze", "model.onnx", "--data", "labelled.npz", "--quiet", "--activations", "--plots", "plots")
    assert f"Picture: {Path('plots/activation-ranks.svg')}" in capsys.readouterr().out
    for name in ("activation-ranks.svg", "activation-collapse.svg"):
        assert (folder / "plots" / name).read_text().startswith("<?xml")


def test_without_matplotlib_it_says_how_to_get_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run(*ANALYZE, "--plots", "plots", code=3)
    assert "pip install 'rankfold[plots]'" in capsys.readouterr().err
    assert not (folder / "plots").exists()


def test_a_pattern_that_matches_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    run(*ANALYZE, "layer4*", code=3)
    assert "pattern 'layer4*' matches no activation" in capsys.readouterr().err


def test_labels_that_are_missing_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    run(*ANALYZE, "--collapse", code=3)
    assert "there are no 'labels' that could be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("analyze", "model.onnx", "--activations"), "give --data too"),
        (
            ("analyze", "model.onnx", "--data", "data.npz", "--plots", "p"),
            "--plots goes with --utilization or --activations",
        ),
        ((*ANALYZE[:4], "--pooling", "mean"), "--pooling is of activations"),
        ((*ANALYZE, "--checkpoint", "c"), "--checkpoint keeps calibrations"),
        ((*ANALYZE, "--utilization"), "--utilization and --activations show different things"),
    ],
)
def test_options_that_do_not_go_together_are_a_usage_error(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*words, code=2)
    assert message in capsys.readouterr().err
