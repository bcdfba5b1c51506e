"""The study of low-rank representations, on made-up images and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.studies import representations as study
from benchmarks.studies import representations_runs as runs
from benchmarks.studies.image_sets import Counts
from benchmarks.studies.representations_runs import Place, Run, Scale, Term
from study_examples import image_set, redirect

COUNTS = Counts(80, 16, 24)
SCALE = Scale(0.125, COUNTS, epochs=1, choosing_epochs=1, calibration=40, measured=16, attacked=8, steps=2)


def place(work: Path, *, size: int = 8) -> Place:
    return Place(SCALE, image_set(COUNTS, size=size, channels=3), work, threads=1)


def test_a_run_is_trained_compressed_measured_and_attacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    standard = runs.STANDARD["resnet18"]
    monkeypatch.setitem(
        runs.STANDARD, "resnet18", runs.replace(standard, recipe=runs.replace(standard.recipe, batch=8))
    )
    here, run = place(tmp_path, size=16), Run("low-rank", Term(0.25, 1.0), 3, 1)
    train = runs.trained(here, run)
    assert sorted(train["outside"]) == ["layer3", "layer4"]
    hits = runs.unpacked(train["right"], COUNTS.test)
    assert len(hits) == COUNTS.test
    assert hits.mean() == train["accuracy"]
    reference = runs.reference_of(here, run)
    assert reference.recipe.low_rank is not None
    assert reference.recipe.low_rank.ranks == {"layer3": 8, "layer4": 16}  # a quarter of 32 and 64 channels
    fold = runs.folded(here, run, 0.5, choosing=True)
    assert 0 < fold["kept"] <= 0.5
    assert len(runs.unpacked(fold["right"], COUNTS.choosing)) == COUNTS.choosing
    stages = runs.measured(here, run)["stages"]
    assert list(stages) == list(runs.STAGES)
    assert [line["features"] for line in stages.values()] == [8, 8, 16, 32, 64, 64]
    assert all(1 <= line["stable"] <= line["effective"] <= line["features"] for line in stages.values())
    attack = runs.attacked(here, run)
    names = [f"{kind} {eps}/255" for kind in ("fgsm", "pgd") for eps in (2, 4, 8)]
    assert sorted(attack["robust"]) == sorted(names)
    assert max(attack["robust"].values()) <= attack["clean"]
    capsys.readouterr()


def made_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put figures in the place of all work, and return the names of what was asked for."""
    calls: list[str] = []
    worse = {None: 0.0, Term(0.125, 1.0): 0.5}

    def right(count: int, loss: float) -> dict[str, Any]:
        hits = np.arange(count) >= round(loss * count)
        return {"accuracy": float(hits.mean()), "right": runs.packed(hits)}

    def trained(_: Place, run: Run, *, choosing: bool = False) -> dict[str, Any]:
        calls.append(f"{run.name} train {run.term}")
        outside = {} if run.term is None else {"layer3": 0.1, "layer4": 0.2}
        count = COUNTS.choosing if choosing else COUNTS.test
        return {"validation_accuracy": 0.5, "epoch": 1, "outside": outside, **right(count, run.seed % 100 / 24)}

    def folded(_: Place, run: Run, keep: float, *, choosing: bool = False) -> dict[str, Any]:
        calls.append(f"{run.name} fold {keep}")
        loss = worse.get(run.term, 0.25) if choosing else (1 - keep) / (2 if run.term else 1)
        return {"kept": keep, **right(COUNTS.choosing if choosing else COUNTS.test, loss)}

    def measured(_: Place, run: Run) -> dict[str, Any]:
        calls.append(f"{run.name} ranks")
        rank = 4 if run.term else 8
        line = {"features": 16, "effective": rank + run.seed, "stable": 2.0, "share_rank": rank}
        return {"stages": dict.fromkeys(runs.STAGES, line)}

    def attacked(_: Place, run: Run) -> dict[str, Any]:
        calls.append(f"{run.name} attack")
        robust = {f"{kind} {eps}/255": 1 / eps for kind in ("fgsm", "pgd") for eps in (2, 4, 8)}
        return {"clean": 0.75, "flat": 0.0, "robust": robust, "warnings": []}

    for function in (trained, folded, measured, attacked):
        monkeypatch.setattr(study, function.__name__, function)
    return calls


def test_the_study_is_kept_and_its_results_are_written_once_all_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    redirect(study, tmp_path, monkeypatch)
    calls = made_up(monkeypatch)
    study.study(place(tmp_path / "work"))
    trainings = [call for call in calls if " train " in call]
    # Of the four settings three are equally good after compression: the first of them, a quarter and 0.1, is taken.
    assert trainings[5:] == [
        f"{condition}-{seed} train {term}"
        for seed in (0, 1, 2)
        for condition, term in (("plain", None), ("low-rank", Term(0.25, 0.1)))
    ]
    assert len(calls) == 5 * 2 + 6 * 5
    found = json.loads((tmp_path / "results" / "studies" / "representations.json").read_text())
    assert found["chosen"] == "rank-0.25-weight-0.1"
    assert [row["setting"] for row in found["choosing"]][:2] == ["plain", "rank-0.25-weight-0.1"]
    assert [(run["condition"], run["seed"]) for run in found["runs"]][:3] == [
        ("plain", 0),
        ("low-rank", 0),
        ("plain", 1),
    ]
    plain, gain = found["summary"]["plain"], found["differences"]["kept 0.5"]
    assert (plain["effective layer4"]["mean"], plain["effective layer4"]["sd"]) == (9.0, 1.0)
    assert (gain["mean"], gain["min"], gain["max"]) == (0.25, 0.25, 0.25)
    interval = found["intervals"]["kept 0.5"]
    assert interval["low"] < interval["difference"] == 0.25 < interval["high"]
    assert found["intervals"]["accuracy"] == {"difference": 0.0, "low": 0.0, "high": 0.0}
    assert "right" not in json.dumps(found)

    study.study(place(tmp_path / "work"))
    assert len(calls) == 40  # nothing twice
    page = (tmp_path / "studies.md").read_text()
    (tmp_path / "studies.md").write_text(page.replace("without the term", "lost"))
    for picture in (tmp_path / "pictures").iterdir():
        picture.unlink()
    study.main(["--redraw"])
    assert (tmp_path / "studies.md").read_text() == page
    check_page(page)
    check_pictures(tmp_path / "pictures")
    capsys.readouterr()


def check_page(page: str) -> None:
    lines = page.splitlines()
    assert lines[2].startswith("| 3 seeds: mean ± deviation | test accuracy, % | kept 0.5 | kept 0.25 |")
    assert lines[4].startswith("| without the term | 95.83 ± 4.17 | 50.00 ± 0.00 | 25.00 ± 0.00 | 9.0 ± 1.0 |")
    assert lines[5].startswith("| with the term | 95.83 ± 4.17 | 75.00 ± 0.00 |")
    assert lines[6].startswith("| difference | +0.00 ± 0.00 | +25.00 ± 0.00 |")
    assert lines[7].startswith("| 95 % over test images | +0.00 to +0.00 | +")
    assert {line.count("|") for line in lines[2:8]} == {15}
    assert "| rank-0.25-weight-0.1 (chosen) | 100.00 | 75.00 | layer3 0.100, layer4 0.200 |" in lines
    assert lines[-3:] == [
        "![Accuracy under attack](pictures/representations-robust.svg)",
        f"<!-- {study.NAME}: end -->",
        "end",
    ]


def check_pictures(folder: Path) -> None:
    pages = {path.name: path.read_text() for path in folder.iterdir()}
    assert sorted(pages) == ["representations-kept.svg", "representations-ranks.svg", "representations-robust.svg"]
    for name, labels in {
        "representations-ranks.svg": ("effective rank", "rank for 99 % of the variance", "stage", "layer4"),
        "representations-kept.svg": ("share of the parameters kept", "test accuracy, %", "original"),
        "representations-robust.svg": ("FGSM", "PGD", "robust accuracy, %", "ε, 255ths of the range"),
    }.items():
        for label in (*labels, "without the term", "with the term"):
            assert f"<!-- {label} -->" in pages[name]


def test_booleans_survive_as_text() -> None:
    hits = np.random.default_rng(0).random(21) < 0.5
    assert runs.unpacked(runs.packed(hits), 21).tolist() == hits.tolist()


def test_the_folder_or_a_redraw_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        study.main([])
    assert "give --work, or --redraw" in capsys.readouterr().err
