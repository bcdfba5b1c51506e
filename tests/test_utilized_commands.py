"""The commands of utilized rank: tables, JSON, pictures, and usage errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command_examples import COMPRESS, FEATURES, HIDDEN, fill_folder, parsed, run

from rankfold import pipeline
from rankfold.projections import SiteUtilization
from rankfold.tools.utilization_plots import spread, write_plots

ANALYZE = ("analyze", "model.onnx", "--data", "data.npz", "--utilization", "--quiet")


@pytest.fixture(autouse=True)
def folder(working_folder: Path) -> Path:
    fill_folder(working_folder)
    return working_folder


def test_tables_show_what_is_used_beside_what_the_weight_looks_like(capsys: pytest.CaptureFixture[str]) -> None:
    run(*ANALYZE)
    output = capsys.readouterr().out
    for text in ("numerical rank", "stable rank", "effective rank", "utilized, 99.9 %", "k_S", "P_S alone", "held out"):
        assert text in output
    assert "about the mean" in output
    assert "Mean layer utilization of 2 sites: " in output
    run(*ANALYZE, "--about-zero")
    assert "about zero" in capsys.readouterr().out


def test_json_holds_everything(capsys: pytest.CaptureFixture[str]) -> None:
    run(*ANALYZE, "--shares", "0.9", "0.99", "--json")
    found = parsed(capsys.readouterr().out)
    assert found["schema_version"] == 1
    assert [site["name"] for site in found["sites"]] == ["fc1", "fc2"]
    used = found["utilization"]
    assert used["shares"] == [0.9, 0.99]
    fc1 = used["sites"][0]
    # data.npz lies near a subspace of 8 dimensions; the weight is Gaussian
    assert fc1["shares"][1]["inputs"] <= 8
    assert fc1["weight"]["numerical"] == FEATURES
    assert fc1["weight"]["effective"] > 0.7 * FEATURES
    assert len(fc1["weight_spectrum"]) == len(fc1["input_spectrum"]) == FEATURES
    assert len(fc1["output_spectrum"]) == HIDDEN
    assert sum(fc1["output_spectrum"]) == pytest.approx(1.0)
    for place, share in enumerate(("0.9", "0.99")):
        ranks = [site["shares"][place] for site in used["sites"]]
        assert used["mlu"][share] == pytest.approx(sum(rank["utilization"] for rank in ranks) / 2)
        for rank in ranks:
            assert rank["rank"] == min(rank["inputs"], rank["outputs"])
            assert set(rank["losses"]) == {"inputs", "outputs", "both"}


def test_pictures_need_matplotlib_and_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run(*ANALYZE, "--plots", "pictures", code=3)
    assert "pip install 'rankfold[plots]'" in capsys.readouterr().err
    assert not Path("pictures").exists()


def test_pictures_are_the_same_bytes_each_time(folder: Path) -> None:
    found = pipeline.utilization("model.onnx", "data.npz")
    write_plots(folder / "one", found)
    write_plots(folder / "two", found)
    for name in ("utilization.svg", "spectra.svg"):
        text = (folder / "one" / name).read_text()
        assert text.startswith("<?xml")
        assert text == (folder / "two" / name).read_text()


def test_many_sites_are_drawn_spread_over_the_depth(folder: Path) -> None:
    (site, _) = pipeline.utilization(folder / "model.onnx", folder / "data.npz").sites
    sites: list[SiteUtilization] = [site] * 40
    assert len(spread(sites, 16)) == 16
    assert spread(sites[:5], 16) == sites[:5]


def test_compress_shows_both_projections_and_writes_a_plan_that_works(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*COMPRESS, "--utilized", "0.9", "--report", "report", "--quiet")
    output = capsys.readouterr().out
    assert "by P_S alone" in output
    page = (folder / "report/report.md").read_text()
    assert "Asked for: **utilized 0.9**" in page
    assert "by P_T alone" in page
    content = parsed((folder / "report/report.json").read_text())
    assert {"inputs", "outputs", "centred"} == set(content["sites"][0]["projection"])
    assert {"inputs", "outputs", "both"} == set(content["sites"][0]["losses"])
    words = ("compress", "model.onnx", "--data", "data.npz", "-o", "again.onnx", "--plan", "report/plan.json")
    run(*words, "--quiet", "--json")
    capsys.readouterr()
    assert (folder / "again.onnx").read_bytes() == (folder / "out.onnx").read_bytes()
    run(*COMPRESS, "--utilized", "0.9", "--about-zero", "--json", "--quiet")
    sites = parsed(capsys.readouterr().out)["sites"]
    assert [site["projection"]["centred"] for site in sites] == [False, False]


USAGE = [
    (("analyze", "model.onnx", "--utilization"), "--utilization needs --data"),
    ((*ANALYZE, "--shares", "1.5"), "--shares is 1.5; expected numbers above 0 and at most 1"),
    (("analyze", "model.onnx", "--data", "data.npz", "--shares", "0.5"), "--shares goes with --utilization"),
    (
        ("analyze", "model.onnx", "--data", "data.npz", "--plots", "p"),
        "--plots goes with --utilization or --activations",
    ),
    (("analyze", "model.onnx", "--data", "data.npz", "--about-zero"), "--about-zero goes with --utilization"),
    ((*COMPRESS, "--utilized", "1.5"), "It must lie in (0, 1]; found 1.5"),
    ((*COMPRESS, "--utilized", "0"), "It must lie in (0, 1]; found 0"),
    ((*COMPRESS, "--utilized", "0.9", "--keep", "0.5"), "found --keep and --utilized"),
    ((*COMPRESS, "--keep", "0.5", "--about-zero"), "--about-zero goes with --utilized"),
]


@pytest.mark.parametrize(("words", "message"), USAGE)
def test_options_that_do_not_fit_are_a_usage_error(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*words, code=2)
    assert message in capsys.readouterr().err
