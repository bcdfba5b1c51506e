"""The headline study: that it runs on made-up weights and images, computes nothing twice, and what its table says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import common
from benchmarks.studies import headline, headline_runs
from benchmarks.studies.headline_runs import Found, Outcome, Point, Scored, Settings
from benchmarks.studies.headline_subjects import Framing, embedded
from benchmarks.studies.headline_summary import block, picture, summary
from PIL import Image

from rankfold.models import fashion_mnist as fashion
from rankfold.models.labelled_images import labelled
from rankfold.models.networks import STANDARD, build
from rankfold.models.sizes import Sizes, sized
from rankfold.tools.pictures import svg_text

CLASSES = 3
SIZES = Sizes(image_size=16, classes=CLASSES, width=0.084, depth=0.09, patch_size=8)  # one head of twelve, one block


def write_images(folder: Path, count: int, *, seed: int) -> None:
    """Write noisy images of `CLASSES` colours, 20 × 24 pixels."""
    random = np.random.default_rng(seed)
    for number in range(count):
        kind = number % CLASSES
        pixels = random.integers(0, 120, (20, 24, 3), dtype=np.uint8)
        pixels[..., kind] += 100
        place = folder / f"class{kind}" / f"{number:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    torch.manual_seed(0)
    network = build(sized(STANDARD["vit_b_16"].shape, SIZES))
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    write_images(tmp_path / "images" / "train", 150, seed=0)
    write_images(tmp_path / "images" / "test", 60, seed=1)
    places = ["--weights", str(tmp_path / "weights.pth"), "--images", str(tmp_path / "images")]
    sizes = ["--image-size", "16", "--patch-size", "8", "--width", "0.084", "--depth", "0.09", "--crop", "0.8"]
    counts = ["--calibration-images", "50", "--training-images", "100", "--passes", "1", "--shares", "0.9", "0.5"]
    return ["--work", str(tmp_path / "work"), "--network", "vit_b_16", *places, *sizes, *counts]


def test_a_checkpoint_is_folded_tuned_and_scored_once(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work, heal, calls = tmp_path / "work", headline_runs.rankfold.heal, []

    def killed_at_the_third(*arguments: Any, **options: Any) -> Any:
        calls.append(options["output"].stem)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return heal(*arguments, **options)

    monkeypatch.setattr(headline_runs.rankfold, "heal", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        headline.main(command)
    assert not (work / "headline.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in work.glob("*.json")}
    headline.main(command)
    # every second share, the second of two, is tuned with three seeds; the run that was killed is made again
    seeds = {"0.9": 1, "0.5": 3}
    expected = {
        f"{way}-{t}-finetune-{n}" for way in headline_runs.WAYS for t, count in seeds.items() for n in range(count)
    }
    assert len(calls) == len(expected) + 1
    assert set(calls) == expected
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert "fine-tunings done, about" in capsys.readouterr().out

    monkeypatch.setattr(headline_runs, "right", lambda *_: pytest.fail("scored again"))
    monkeypatch.setattr(headline_runs.rankfold, "heal", lambda *_, **__: pytest.fail("tuned again"))
    monkeypatch.setattr(headline_runs.rankfold, "compress", lambda *_, **__: pytest.fail("folded again"))
    headline.main(command)
    content = json.loads((work / "headline.json").read_text())
    assert content["original"]["images"] == 60
    assert [(point["way"], len(point["runs"])) for point in content["points"]] == [
        ("utilized", 1), ("keep", 1), ("utilized", 3), ("keep", 3),
    ]  # fmt: skip
    for first, second in zip(content["points"][::2], content["points"][1::2], strict=True):
        assert first["kept"] < 1
        assert second["kept"] <= max(first["kept"], 0.17)  # what the least ranks keep of so narrow a network
    assert "vit_b_16, 3 classes" in (work / "headline.md").read_text()
    assert "</svg>" in (work / "headline.svg").read_text()
    with np.load(work / "utilized-0.9.npz") as archive:
        assert archive["right"].shape == (60,)
    with pytest.raises(SystemExit, match=r"other settings \(framing\); give another folder"):
        headline.main([*command, "--crop", "0.9"])


def test_images_are_drawn_without_repetition_and_written_in_parts(command: list[str], tmp_path: Path) -> None:
    chosen = headline._parser().parse_args(command)
    source = headline._checkpoint(chosen)
    tmp_path.joinpath("work").mkdir()
    subject = headline.checkpoint(tmp_path / "work", source, 100)
    seen, labels = [], []
    for folder in (subject.calibration, subject.training):
        for path in sorted(folder.glob("*.npz")):
            with np.load(path) as archive:
                assert archive["image"].dtype == np.float32
                seen += [image.tobytes() for image in archive["image"]]
                labels += archive["labels"].tolist()
    assert (len(seen), len(set(seen))) == (150, 150)
    assert np.bincount(labels).tolist() == [50, 50, 50]
    batches = list(subject.test())
    assert sum(len(images) for images, _ in batches) == 60
    images, kinds = batches[0]
    # the colour of a class is 100 of 255 above the others, on noise whose mean over 256 pixels moves by 2
    assert (images.mean((2, 3)).argmax(1) == kinds).all()
    with pytest.raises(ValueError, match=r"150 images, expected 50 to fold by and 101 to tune on; give fewer"):
        headline.checkpoint(tmp_path / "work", source, 101)
    shutil.copytree(tmp_path / "images" / "test" / "class0", tmp_path / "images" / "test" / "class3")
    with pytest.raises(ValueError, match="train has 3 classes, test 4"):
        headline.checkpoint(tmp_path / "work", source, 100)


def test_framing_shows_the_middle_and_normalises(tmp_path: Path) -> None:
    pixels = np.zeros((10, 10, 3), np.uint8)
    pixels[1:9, 1:9] = (51, 102, 204)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = Framing(8, 0.8, (0.2, 0.2, 0.2), (0.1, 0.2, 0.5)).image(tmp_path / "a.png")
    # nothing is scaled at 8 of 10 pixels: (v - mean) / deviation, to float32's rounding
    np.testing.assert_allclose(found, np.broadcast_to(np.array([0.0, 1.0, 1.2])[:, None, None], (3, 8, 8)), atol=1e-6)
    for crop, deviation, message in ((0.0, (1, 1, 1), "crop"), (0.9, (1, 0, 1), "deviations above 0")):
        with pytest.raises(ValueError, match=message):
            Framing(8, crop, (0, 0, 0), deviation)


def test_faults_are_one_line(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"benchmarks\.studies\.headline: .*nowhere\.pth"):
        headline.main([*command, "--weights", str(tmp_path / "nowhere.pth")])
    with pytest.raises(SystemExit):
        headline.main(command[:4])
    assert "all three or none" in capsys.readouterr().err


def test_the_embedded_network_takes_the_first_training_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    images, kinds = random.integers(0, 256, (230, 1, 28, 28), dtype=np.uint8), random.integers(0, 10, 230)
    made = labelled(tmp_path, images, kinds, fashion.CLASSES)
    monkeypatch.setattr("benchmarks.studies.headline_subjects.fashion_mnist", lambda: tmp_path)
    monkeypatch.setattr(fashion, "read", lambda *_: made)
    subject = embedded(tmp_path, 40)
    with np.load(subject.training) as archive:
        np.testing.assert_array_equal(archive["image"], fashion.as_input(images[:40]))
        assert archive["labels"].tolist() == kinds[:40].tolist()
    batches = list(subject.test())
    np.testing.assert_array_equal(np.concatenate([part for part, _ in batches]), fashion.as_input(images))
    np.testing.assert_array_equal(np.concatenate([part for _, part in batches]), kinds)


def scored(right: int, *, of: int = 1000, **row: Any) -> Scored:
    found = np.arange(of) < right
    return Scored({"accuracy": 100 * right / of, **row}, found)


def made_up() -> Found:
    sizes = {name: {"before": 200, "after": 100} for name in ("linear_parameters", "parameters", "size_bytes")}
    settings = Settings((0.99, 0.9), (0.9,), (0, 1), training_images=4000, passes=2, batch=32)
    low, high = (tuple(scored(right, seed=n) for n, right in enumerate(pair)) for pair in ((880, 890), (900, 904)))
    outcomes = (
        Outcome(Point("utilized", 0.99), scored(900, kept=1.0, folded=0, **sizes), ()),
        Outcome(Point("keep", 0.99), scored(880, kept=0.5, folded=3, **sizes), (scored(899, seed=0),)),
        Outcome(Point("utilized", 0.9), scored(300, kept=0.4, folded=4, **sizes), low),
        Outcome(Point("keep", 0.9), scored(700, kept=0.4, folded=4, **sizes), high),
    )
    return Found("made up", settings, scored(900), outcomes)


def test_the_table_says_means_spreads_and_differences() -> None:
    content = json.loads(json.dumps(summary(made_up())))
    assert content["fewest"] == {
        "utilized": {"by_the_mean": None, "by_the_interval": None},
        "keep": {"by_the_mean": 0.4, "by_the_interval": 0.4},
    }
    lines = block(content, "p.svg").splitlines()
    assert lines[0].startswith(
        "| made up | linear parameters kept | all parameters kept | before | after fine-tuning |"
    )
    assert lines[2] == "| original | 1.000 | 1.000 | 90.00 % |  |  |  |  |"
    assert lines[3].startswith(
        "| `--utilized 0.99` | 1.000 | 0.500 | 90.00 % | nothing folded | 0 | +0.00 [+0.00, +0.00]"
    )
    assert lines[4].startswith("| `--keep 0.5` | 0.500 | 0.500 | 88.00 % | 89.90 % | 1 | -2.00 [")
    cells = lines[5].split(" | ")
    assert cells[4] == "88.50 % (88.00 to 89.00)"
    after = content["points"][2]["after"]
    assert after["difference"] == pytest.approx(-1.5)
    # 10 images lost by both, 10 by one: the deviation of the mean of 1,000 is √(10 + 2.5 - 1000 · .015²) / 1000
    width = 2 * 1.96 * 100 * np.sqrt(12.5 - 0.225) / 1000
    # a percentile of 10,000 resamples moves by some 2 %, and counts are whole: a twentieth of a point here
    assert after["high"] - after["low"] == pytest.approx(width, abs=0.1)
    assert "p.svg" in lines[8]


def test_the_picture_has_both_ways_before_and_after_and_the_original() -> None:
    page = svg_text(*picture(summary(made_up())))
    assert page is not None
    for label in (
        "original", "--utilized, before fine-tuning", "--utilized, after fine-tuning", "--keep, before fine-tuning",
        "--keep, after fine-tuning", "linear parameters kept, %", "accuracy on test images, %", "made up",
    ):  # fmt: skip
        assert f"<!-- {label.replace('--', '- -')} -->" in page, label  # no comment may hold two dashes


def test_figures_are_written_and_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "studies.md"
    page.write_text("a\n<!-- headline: begin -->\nearlier text\n<!-- headline: end -->\nb\n")
    monkeypatch.setattr(headline, "STUDIES", page)
    monkeypatch.setattr(headline, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(headline, "PICTURES", tmp_path / "pictures")
    headline.write(summary(made_up()), None)
    written = page.read_text()
    assert "earlier text" not in written
    assert "| original | 1.000" in written
    drawn = (tmp_path / "pictures" / "headline.svg").read_text()
    page.write_text("a\n<!-- headline: begin -->\nearlier text\n<!-- headline: end -->\nb\n")
    (tmp_path / "pictures" / "headline.svg").unlink()
    headline.main(["--redraw"])
    assert page.read_text() == written
    assert (tmp_path / "pictures" / "headline.svg").read_text() == drawn


def test_the_page_has_the_marks_of_all_studies() -> None:
    text = common.STUDIES.read_text()
    for name in ("utilization", "representations", "collapse", "headline"):
        assert text.index(f"<!-- {name}: begin -->") < text.index(f"<!-- {name}: end -->")
