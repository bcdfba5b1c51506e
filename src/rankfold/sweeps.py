"""Collecting all sums within a bounded memory: in one sweep over the data, or in several, each for some tensors."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rankfold.options import Options
from rankfold.passes.tap_parts import part_of
from rankfold.passes.taps import TapSetting
from rankfold.reading import Reading
from rankfold.runtime_calib.checkpoint import Run
from rankfold.runtime_calib.collect import Collector
from rankfold.runtime_calib.feeds import read_spool, spool_samples
from rankfold.runtime_calib.moment_files import are_stored, mapped_moments, store_moments
from rankfold.values import Feed, Moments, Request, Tapped

_SUM_BYTES = 8  # sums over batches are float64
_SIDES = ("calibration", "held_out", "choosing")  # a number for each, by which the rows of strides are drawn
_SHOWN = {"calibration": "calibrating", "held_out": "held-out rows", "choosing": "choosing rows"}

# With a third part to sum, what is finished waits on disk where it would take more than this share of the memory: on
# DINOv2 ViT-S/14 it stood beside the running model, and made the most of all, 933 MB in place of 790.
_WAITING_SHARE = 1 / 16

Group = tuple[Request, ...]
Sides = dict[str, dict[Request, Moments]]


@dataclass(frozen=True)
class Sweeps:
    """How the sums are collected.

    Attributes:
        groups: The requests of each sweep.
        on_disk: Whether finished moments are put on disk.
    """

    groups: tuple[Group, ...]
    on_disk: bool


@dataclass(frozen=True)
class Collection:
    """One collecting of sums, ready to run.

    Attributes:
        tapped: The model with all taps.
        sweeps: What is collected when.
        reading: The data.
        work: Folder for moments on disk.
        run: The checkpoint, if one is kept.
        lean: Whether the model is run without onnxruntime's own copies of its weights.
    """

    tapped: Tapped
    sweeps: Sweeps
    reading: Reading
    work: Path
    run: Run | None
    lean: bool


def plan_sweeps(settings: Mapping[Request, TapSetting], memory_bytes: int, *, on_disk: bool, sides: int = 2) -> Sweeps:
    """Return as few sweeps as keep what is summed at a time within the memory; one tensor is the least.

    Args:
        settings: The requests, in graph order.
        memory_bytes: For running sums, the batch's own sums, and finished moments that are not put on disk.
        on_disk: Put finished moments on disk also where they would fit.
        sides: Parts of the data that are summed by themselves.
    """
    squares = {request: setting.features**2 for request, setting in settings.items()}
    of_batch = {request: _batch_bytes(setting) * squares[request] for request, setting in settings.items()}
    running = {request: of_batch[request] + _SUM_BYTES * squares[request] for request in settings}
    finished = sides * _SUM_BYTES * sum(squares.values())
    on_disk = on_disk or (sides > len(_SIDES) - 1 and finished > _WAITING_SHARE * memory_bytes)
    on_disk = on_disk or finished + sum(of_batch.values()) > memory_bytes
    groups: list[list[Request]] = [[]]
    used = 0
    for request, needed in running.items():
        if groups[-1] and used + needed > memory_bytes:
            groups.append([])
            used = 0
        groups[-1].append(request)
        used += needed
    return Sweeps(tuple(tuple(group) for group in groups), on_disk)


def collect_all(collection: Collection, options: Options) -> Sides:
    """Return the moments of the calibration samples, of the held-out ones, and of those that something is chosen on."""
    found: Sides = {side: {} for side in _SIDES}
    for number in range(len(collection.sweeps.groups)):
        for side, moments in _sweep(collection, number, options):
            found[side] |= moments
    return found


def _sweep(collection: Collection, number: int, options: Options) -> Iterator[tuple[str, dict[Request, Moments]]]:
    """Yield each side's moments; what an earlier call finished is not collected again."""
    collector = None
    for side in _SIDES:
        if side == "choosing" and not _has_choosing(collection):
            continue
        if _is_done(collection, number, side):
            names = _names(collection, number, side)
            yield side, {request: mapped_moments(collection.work, name) for request, name in names}
            continue
        if collector is None and collection.sweeps.groups[number]:
            part = part_of(collection.tapped, collection.sweeps.groups[number])
            collector = Collector(part, seed=options.seed, provider=options.provider, lean=collection.lean)
        with closing(_batches(collection, side, options)) as batches:
            watched = options.progress(batches, _shown(collection, number, side), _total(collection, side, options))
            yield side, _summed(collection, collector, watched, (number, side))


def _summed(
    collection: Collection, collector: Collector | None, batches: Iterable[Feed], place: tuple[int, str]
) -> dict[Request, Moments]:
    """Return the sums over all batches, which are read to the end in any case: reading them makes the split."""
    if collector is None:
        for _ in batches:
            pass
        return {}
    names = dict(_names(collection, *place))
    side = _SIDES.index(place[1])
    keeper = collection.run.keeper(place[0], side) if collection.run else None
    durable = collection.run is not None

    def stored(request: Request, moments: Moments) -> Moments:
        if not collection.sweeps.on_disk:
            return moments
        return store_moments(moments, collection.work, names[request], durable=durable)

    return collector.collect(batches, side=side, keeper=keeper, stored=stored)


def _batches(collection: Collection, side: str, options: Options) -> Generator[Feed, None, None]:
    if side != "calibration":
        yield from read_spool(_aside(collection, side))
        return
    first = collection.reading.samples is None
    yield from collection.reading.batches(options)
    if first and collection.run and collection.reading.samples is not None:
        collection.run.note_samples(collection.reading.samples)


def _aside(collection: Collection, side: str) -> Path:
    """Return where the batches of one part of the held-out data lie."""
    if side == "held_out":
        return collection.reading.held_out
    assert collection.reading.choosing is not None  # the caller asked
    return collection.reading.choosing


def _has_choosing(collection: Collection) -> bool:
    return collection.reading.choosing is not None and spool_samples(collection.reading.choosing) > 0


def _names(collection: Collection, number: int, side: str) -> Iterator[tuple[Request, str]]:
    """Yield the requests of a sweep with the names their moments have on disk."""
    places = {request: place for place, request in enumerate(collection.tapped.taps)}
    return ((request, f"{side}.{places[request]:05d}") for request in collection.sweeps.groups[number])


def _is_done(collection: Collection, number: int, side: str) -> bool:
    """Tell whether an earlier call collected this side of this sweep."""
    if collection.run is None or collection.reading.samples is None:
        return False
    return all(are_stored(collection.work, name) for _, name in _names(collection, number, side))


def _shown(collection: Collection, number: int, side: str) -> str:
    sweeps = len(collection.sweeps.groups)
    return _SHOWN[side] if sweeps == 1 else f"{_SHOWN[side]}, sweep {number + 1} of {sweeps}"


def _total(collection: Collection, side: str, options: Options) -> int | None:
    if side != "calibration":
        return math.ceil(spool_samples(_aside(collection, side)) / options.batch_size)
    source = collection.reading.source
    if source.count is None:
        return None
    return math.ceil(source.count * (1 - options.holdout) / max(options.batch_size, source.unit_size))


def _batch_bytes(setting: TapSetting) -> int:
    """Return the size of a number in the sums of one batch."""
    return 8 if setting.wide else 4
