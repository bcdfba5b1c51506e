"""What studies share: tasks that are kept, images of three kinds, intervals over clusters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks import common
from benchmarks.intervals import cluster_interval
from benchmarks.studies.image_sets import Counts, divided
from benchmarks.studies.spread import shown, spread
from benchmarks.studies.tasks import Row, Rows, Task, finished

from rankfold.models.labelled_images import LabelledImages


def test_what_is_done_is_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[str] = []

    def counted(name: str) -> Task:
        def compute(rows: Rows) -> Row:
            calls.append(name)
            if name == "c" and calls.count("c") == 1:
                raise KeyboardInterrupt
            return {"before": sorted(rows), "value": (1, 2)}

        return Task(name, compute, 2.0)

    tasks = [*map(counted, "abcd")]
    with pytest.raises(KeyboardInterrupt):
        finished(tasks, tmp_path / "work", {"seeds": (0, 1)})
    rows = finished(tasks, tmp_path / "work", {"seeds": (0, 1)})
    assert calls == ["a", "b", "c", "c", "d"]
    assert rows["d"]["before"] == ["a", "b", "c"]
    assert rows["a"]["value"] == [1, 2]  # as the file holds it, the same whether it was just computed or not
    assert rows["a"]["minutes"] >= 0
    assert finished(tasks, tmp_path / "work", {"seeds": [0, 1]}) == rows
    assert len(calls) == 5
    assert json.loads((tmp_path / "work" / "b.json").read_text()) == rows["b"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" minutes")[0].rsplit(" ", 1)[0] for line in lines] == [
        "a: 1 of 4,",
        "b: 2 of 4,",
        "c: 3 of 4,",
        "d: 4 of 4,",
    ]
    assert lines[-1].endswith("about 0 left")


def test_the_time_left_is_scaled_by_what_tasks_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 240.0, 240.0, 300.0, 300.0, 301.0])
    monkeypatch.setattr("benchmarks.studies.tasks.time.monotonic", lambda: next(clock))
    finished([Task(name, lambda _: {}, minutes) for name, minutes in (("a", 2), ("b", 1), ("c", 9))], tmp_path, {})
    assert capsys.readouterr().out.splitlines() == [
        "a: 1 of 3, 4.0 minutes, about 20 left",  # twice as slow as thought: 10 become 20
        "b: 2 of 3, 1.0 minutes, about 15 left",  # 5 minutes for what was thought to take 3
        "c: 3 of 3, 0.0 minutes, about 0 left",
    ]


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    finished([], tmp_path, {"width": 0.25, "images": "ab"})
    with pytest.raises(ValueError, match=r"other settings: width was 0\.25, is 1\.0; give another --work"):
        finished([], tmp_path, {"width": 1.0, "images": "ab"})


def numbered(count: int) -> LabelledImages:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), np.uint8)
    return LabelledImages(images, np.arange(count, dtype=np.int64) % 2, ("even", "odd"))


def test_images_of_three_kinds_share_none() -> None:
    found = divided(numbered(9), numbered(5), Counts(4, 3, 2))
    assert [part.images[:, 0, 0, 0].tolist() for part in (found.training, found.choosing, found.test)] == [
        [0, 1, 2, 3],
        [4, 5, 6],
        [0, 1],
    ]
    assert found.digest != divided(numbered(9), numbered(5), Counts(4, 3, 3)).digest
    with pytest.raises(ValueError, match="9 training and 5 test images; expected 11 and 2"):
        divided(numbered(9), numbered(5), Counts(8, 3, 2))


def test_the_spread_is_that_of_a_sample() -> None:
    found = spread([1.0, 2.0, 6.0])
    assert (found["mean"], found["min"], found["max"]) == (3.0, 1.0, 6.0)
    assert found["sd"] == pytest.approx(7**0.5, rel=1e-15)  # (4 + 1 + 9) / 2
    assert shown(found, 2) == "3.00 ± 2.65"
    assert spread([4.0])["sd"] == 0.0


def test_clusters_are_drawn_whole() -> None:
    """Of clusters of sums 0, 0 and 9 in pairs: resamples have none, one, two or three of the last."""
    clusters, values = np.array([2, 0, 1, 2, 0, 1]), np.array([4.0, 1.0, -2.0, 5.0, -1.0, 2.0])
    # 27 resamples: 8 without the last, 12 with one, 6 with two, 1 (3.7 %, above 2.5 %) with three.
    assert cluster_interval(lambda rows: float(values[rows].sum()), clusters) == (0.0, 27.0)
    assert cluster_interval(lambda rows: float(len(rows)), clusters) == (6.0, 6.0)


def test_of_many_clusters_some_resamples_are_drawn() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=400)
    low, high = cluster_interval(lambda rows: float(values[rows].mean()), np.arange(400), resamples=2_000)
    # The interval of a mean is ± 1.96 deviations / √n; of 2,000 resamples a bound is known to some 5 % of that.
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_results_go_to_the_page_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common, "README", tmp_path / "README.md")
    page = tmp_path / "studies.md"
    page.write_text("a\n<!-- x: begin -->\nNot measured yet.\n<!-- x: end -->\nb\n")
    common.write_results("x", {"rows": []}, "| t |", folder=tmp_path / "results" / "studies", page=page)
    assert page.read_text() == "a\n<!-- x: begin -->\n| t |\n<!-- x: end -->\nb\n"
    assert (tmp_path / "results" / "studies" / "x.json").exists()
    assert not (tmp_path / "README.md").exists()
    capsys.readouterr()
