"""Sums in several sweeps: as few as the memory allows, and the same bytes however many there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from benchmarks.synthetic_transformer import INPUT, Shape, token_ids, write_transformer
from hypothesis import given
from hypothesis import strategies as st

from rankfold.passes.model_file import load_model
from rankfold.passes.taps import TapSetting
from rankfold.pipeline import Options, Result, analyze, calibrate, compress
from rankfold.sweeps import plan_sweeps
from rankfold.values import Calibration, Feed, Request

SHAPE = Shape(width=64, heads=2, layers=2, vocabulary=500)
QUICK = Options(
    latency_rounds=0, row_stride=3, allocation="uniform"
)  # every third row, from an offset drawn for each batch
PLENTY = 1 << 24
IDS = token_ids(SHAPE, samples=36, tokens=20)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    write_transformer(path, SHAPE)
    return path


def generated() -> Iterator[Feed]:
    """Yield the data once and never again."""
    yield from ({INPUT: part} for part in np.split(IDS, 12))


def sums_of(calibration: Calibration) -> dict[tuple[str, str], tuple[float, bytes, bytes]]:
    return {
        (side, request.tensor): (found.count, found.total.tobytes(), found.gram.tobytes())
        for side, moments in (("calibration", calibration.moments), ("held out", calibration.held_out))
        for request, found in moments.items()
    }


@pytest.fixture(scope="module")
def at_once(model: Path) -> Calibration:
    found = calibrate(model, {INPUT: IDS}, options=replace(QUICK, memory_bytes=PLENTY))
    assert found.settings["sweeps"] == 1
    return found


@pytest.mark.parametrize(
    ("memory", "sweeps"), [(600_000, 1), (200_000, 3), (100_000, 5), (1, 9)], ids=["on disk", "3", "5", "one by one"]
)
def test_the_sums_do_not_depend_on_the_sweeps(memory: int, sweeps: int, model: Path, at_once: Calibration) -> None:
    found = calibrate(model, {INPUT: IDS}, options=replace(QUICK, memory_bytes=memory))
    assert found.settings["sweeps"] == sweeps
    assert sums_of(found) == sums_of(at_once)
    assert (found.samples, found.held_out_samples) == (at_once.samples, at_once.held_out_samples)


def test_data_that_is_read_once_is_swept_from_a_spool(model: Path, tmp_path: Path) -> None:
    whole = calibrate(model, generated(), options=replace(QUICK, memory_bytes=PLENTY))
    swept = calibrate(model, generated(), options=replace(QUICK, memory_bytes=100_000))
    assert swept.settings["sweeps"] == 5
    assert sums_of(swept) == sums_of(whole)
    script = tmp_path / "data.py"
    script.write_text(
        f"import numpy as np\ndef load_data():\n    yield {{{INPUT!r}: np.load({str(tmp_path / 'ids.npy')!r})}}\n"
    )
    np.save(tmp_path / "ids.npy", IDS)
    read = [calibrate(model, script, options=replace(QUICK, memory_bytes=memory)) for memory in (PLENTY, 100_000)]
    assert sums_of(read[0]) == sums_of(read[1])


def squeezed(model: Path, folder: Path, memory: int, keep: float = 0.5) -> Result:
    folder.mkdir()
    options = replace(QUICK, memory_bytes=memory)
    return compress(model, {INPUT: IDS}, keep=keep, output=folder / "small.onnx", options=options)


def test_the_result_does_not_depend_on_the_memory(model: Path, tmp_path: Path) -> None:
    rich, poor = squeezed(model, tmp_path / "rich", PLENTY), squeezed(model, tmp_path / "poor", 100_000)
    assert rich.plan == poor.plan
    files = {path.name: path.read_bytes() for path in rich.path.parent.iterdir()}
    assert {path.name: path.read_bytes() for path in poor.path.parent.iterdir()} == files
    assert rich.report.sites == poor.report.sites


def test_the_report_tells_what_little_memory_changed(model: Path, tmp_path: Path) -> None:
    rich, poor = squeezed(model, tmp_path / "rich", PLENTY).report, squeezed(model, tmp_path / "poor", 100_000).report
    (basis,) = rich.notes
    assert basis.startswith("errors of layers count by their size alone")
    assert [note for note in poor.notes if "5 sweeps over the data" in note] == [poor.notes[0]]
    assert "were run without the prepacked copies" in poor.notes[1]
    assert rich.self_check is not None
    assert poor.self_check is not None
    assert (rich.self_check.checked, rich.self_check.folded) == (len(rich.plan.folded), len(rich.plan.folded))
    assert 0 < poor.self_check.checked < poor.self_check.folded
    assert max(poor.self_check.held_out, poor.self_check.unseen) < poor.self_check.tolerance


def test_the_result_stands_by_itself(model: Path, tmp_path: Path) -> None:
    found = squeezed(model, tmp_path / "result", 100_000)
    kept = load_model(found.path)
    assert kept.has_external_data
    assert all(file.parent == found.path.parent for file in kept.files)


def test_the_number_of_sweeps_is_told_in_advance(model: Path) -> None:
    told: list[str] = []

    def shown(items: object, description: str, total: int | None) -> object:  # noqa: ARG001
        told.append(description)
        return items

    calibrate(model, {INPUT: IDS}, options=replace(QUICK, memory_bytes=300_000, progress=shown))  # type: ignore[arg-type]
    assert told == [
        "calibrating, sweep 1 of 2", "held-out rows, sweep 1 of 2", "calibrating, sweep 2 of 2",
        "held-out rows, sweep 2 of 2",
    ]  # fmt: skip


def test_analysing_needs_no_more_memory(model: Path) -> None:
    rich, poor = (analyze(model, {INPUT: IDS}, options=replace(QUICK, memory_bytes=size)) for size in (PLENTY, 1))
    assert rich == poor


@given(sizes=st.lists(st.integers(1, 50), max_size=12), memory=st.integers(1, 60_000), wide=st.booleans())
def test_a_sweep_holds_what_fits_or_one_tensor(sizes: list[int], memory: int, wide: bool) -> None:
    settings = {Request(str(place)): TapSetting(size, 2, wide=wide) for place, size in enumerate(sizes)}
    found = plan_sweeps(settings, memory, on_disk=False)
    each = 16 if wide else 12  # bytes per element: a float64 sum, and one batch's
    held = [[each * settings[request].features ** 2 for request in group] for group in found.groups]
    assert [request for group in found.groups for request in group] == list(settings)
    assert all(sum(group) <= memory or len(group) == 1 for group in held)
    assert all(sum(first) + second[0] > memory for first, second in pairwise(held))
    assert found.on_disk == (sum((each + 8) * size**2 for size in sizes) > memory)
