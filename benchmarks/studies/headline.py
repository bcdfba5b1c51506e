"""Parameters against accuracy, before and after fine-tuning: `python -m benchmarks.studies.headline --work DIR`.

The headline of Garg et al. 2024 (arXiv 2407.04797) is a ViT-B/16 with half of its parameters and under 0.2 % of
accuracy lost after fine-tuning. Here the embedded ViT is folded by `rankfold compress --utilized` at several shares of
the variance, and by `--keep` at the same sizes, and each result is fine-tuned on labelled training images.

With `--network vit_b_16 --weights FILE --images FOLDER` it is a checkpoint of one's own on a folder of images, and what
comes out stays in the work folder. Else, when all runs are there, `results/studies/headline.json`, the table in
docs/studies.md and docs/pictures/headline.svg are rewritten. Every run leaves a JSON in the work folder when it is
done, a fine-tuning that was killed goes on from its checkpoint, and what is done is not repeated. Test images choose
nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import PICTURES, RESULTS, STUDIES, write_between, write_results, write_whole
from benchmarks.studies.headline_runs import SETTINGS, Settings, Study
from benchmarks.studies.headline_subjects import Checkpoint, Framing, checkpoint, digest, embedded
from benchmarks.studies.headline_summary import block, picture, summary
from rankfold.models import demo, image_folder
from rankfold.models.networks import STANDARD
from rankfold.models.size_options import add_size_options
from rankfold.models.sizes import Sizes
from rankfold.models.vit_class_token import ClassTokenViTShape
from rankfold.runtime_calib.threads import limited_threads
from rankfold.tools.pictures import write_pictures

NAME = "headline"
_LINK = f"pictures/{NAME}.svg"  # from docs/studies.md
TRANSFORMERS = tuple(name for name, known in STANDARD.items() if isinstance(known.shape, ClassTokenViTShape))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not done yet, and write what came of it."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.redraw:
        _redraw()
        return
    if chosen.work is None or len({chosen.network is None, chosen.weights is None, chosen.images is None}) > 1:
        parser.error("--work is needed, and of --network, --weights and --images all three or none")
    chosen.work.mkdir(parents=True, exist_ok=True)
    settings = _settings(chosen)
    try:
        own = None if chosen.network is None else _checkpoint(chosen)
        _claim(chosen.work, {"model": digest(demo.embedded_model())} if own is None else own.identity, settings)
        count = settings.training_images
        subject = embedded(chosen.work, count) if own is None else checkpoint(chosen.work, own, count)
    except (ImportError, OSError, ValueError) as error:
        raise SystemExit(f"{parser.prog}: {error}") from error
    with limited_threads():
        content = summary(Study(subject, chosen.work, settings).run())
    if settings.device == "cuda":
        content["gpu"] = torch.cuda.get_device_name()
    write(content, None if own is None else chosen.work)


def write(content: dict[str, Any], work: Path | None) -> None:
    """Write figures, table and picture: those of a network of one's own into its work folder."""
    if work is None:
        write_results(NAME, content, block(content, _LINK), page=STUDIES, folder=RESULTS / "studies")
        _draw(content, PICTURES)
        return
    page = work / f"{NAME}.md"
    write_whole(page, f"# {content['title']}\n\n<!-- {NAME}: begin -->\n<!-- {NAME}: end -->\n")
    write_results(NAME, content, block(content, f"{NAME}.svg"), page=page, folder=work)
    _draw(content, work)


def _redraw() -> None:
    content = json.loads((RESULTS / "studies" / f"{NAME}.json").read_text())
    write_between(NAME, block(content, _LINK), STUDIES)
    _draw(content, PICTURES)


def _draw(content: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for line in write_pictures(folder, {f"{NAME}.svg": picture(content)}):
        print(line)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.headline", description=__doc__)
    parser.add_argument("--work", type=Path, help="folder for models, data and one JSON per run, kept")
    parser.add_argument("--full", action="store_true", help="more images and passes, three seeds everywhere")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where models run and are tuned")
    parser.add_argument("--redraw", action="store_true", help="table and picture of the figures that were written last")
    parser.add_argument("--shares", type=float, nargs="+", help="of the variance; every second one is run three times")
    parser.add_argument("--training-images", type=int, help="to fine-tune on")
    parser.add_argument("--passes", type=int, help="over the training images, at most")
    own = parser.add_argument_group("a checkpoint of one's own")
    own.add_argument("--network", choices=TRANSFORMERS)
    own.add_argument("--weights", type=Path, help="its state dict, written by torch.save or as safetensors")
    own.add_argument("--images", type=Path, help="folder with train/CLASS/IMAGE and test/CLASS/IMAGE")
    own.add_argument("--calibration-images", type=int, default=2048, help="to fold by (default: %(default)s)")
    own.add_argument("--image-size", type=int, default=Sizes.image_size, help="pixels (default: %(default)s)")
    own.add_argument("--crop", type=float, default=0.875, help="share of the shorter side (default: %(default)s)")
    own.add_argument("--mean", type=float, nargs=3, default=(0.485, 0.456, 0.406), help="of channels in [0, 1]")
    own.add_argument("--std", type=float, nargs=3, default=(0.229, 0.224, 0.225), help="of channels in [0, 1]")
    add_size_options(own)
    return parser


def _settings(chosen: argparse.Namespace) -> Settings:
    """Return the settings: the small or the full ones, and what is asked for instead."""
    settings = replace(SETTINGS["full" if chosen.full else "small"], device=chosen.device)
    if chosen.shares is not None:
        repeated = chosen.shares if chosen.full else chosen.shares[1::2]
        settings = replace(settings, shares=tuple(chosen.shares), repeated=tuple(repeated))
    asked = {name: getattr(chosen, name) for name in ("training_images", "passes")}
    return replace(settings, **{name: value for name, value in asked.items() if value is not None})


def _checkpoint(chosen: argparse.Namespace) -> Checkpoint:
    sizes = Sizes(
        image_size=chosen.image_size,
        classes=len(image_folder.listed(chosen.images / "train").classes),
        width=Sizes.width if chosen.width is None else chosen.width,
        depth=Sizes.depth if chosen.depth is None else chosen.depth,
        form=chosen.form,
        patch_size=chosen.patch_size,
    )
    framing = Framing(chosen.image_size, chosen.crop, tuple(chosen.mean), tuple(chosen.std))
    return Checkpoint(chosen.network, chosen.weights, chosen.images, sizes, framing, chosen.calibration_images)


def _claim(work: Path, identity: dict[str, Any], settings: Settings) -> None:
    """Note what the runs in a folder are of; shares and seeds may be added to them, nothing else may change."""
    given = asdict(settings)
    fixed = {name: given[name] for name in given if name not in {"shares", "repeated", "seeds"}} | identity
    fixed = json.loads(json.dumps(fixed))
    file = work / "settings.json"
    if not file.exists():
        write_whole(file, json.dumps(fixed, indent=2) + "\n")
    found = json.loads(file.read_text())
    if found != fixed:
        names = sorted(name for name in found.keys() | fixed.keys() if found.get(name) != fixed.get(name))
        raise SystemExit(f"{work}: holds runs with other settings ({', '.join(names)}); give another folder to --work")


if __name__ == "__main__":
    main()
