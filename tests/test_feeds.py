"""Calibration data from every kind of source: the same units, and a message that tells what to mend."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polygraphy.json import save_json

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib import feed_cut
from rankfold.runtime_calib.feeds import Source, SpoolWriter, batched, open_source, sample_count
from rankfold.values import Feed, InputSpec

X = InputSpec("x", "float32", ("batch", 3))
IDS = InputSpec("ids", "int64", ("batch", "tokens"))
FIXED = InputSpec("x", "float32", (4, 3))
SCALE = InputSpec("scale", "float32", ())


def rows(count: int, width: int = 3) -> np.ndarray:
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


def ids(count: int, width: int = 5) -> np.ndarray:
    return np.arange(count * width, dtype=np.int64).reshape(count, width)


def feeds_of(source: Source) -> list[Feed]:
    return [unit.feed for unit in source.units]


def joined(source: Source, name: str = "x") -> np.ndarray:
    return np.concatenate([feed[name] for feed in feeds_of(source)])


def refused(data: object, inputs: tuple[InputSpec, ...], message: str) -> None:
    with pytest.raises(CalibrationDataError, match=message):
        list(open_source(data, inputs).units)


class Reader:
    """An onnxruntime CalibrationDataReader, by shape."""

    def __init__(self, feeds: list[Feed]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self.feeds, None)


SCRIPT = """
import numpy as np
def load_data():
    for start in (0, 4):
        x = np.arange(30, dtype=np.float32).reshape(10, 3)
        ids = np.arange(50, dtype=np.int64).reshape(10, 5)
        yield {"x": x[start:start + 4 + start // 2], "ids": ids[start:start + 4 + start // 2]}
"""


def as_kind(kind: str, folder: Path) -> object:
    """Return ten samples of x and ids as this kind of data, in pieces of 4 and 6 where it has pieces."""
    whole = {"x": rows(10), "ids": ids(10)}
    parts = [{name: array[part] for name, array in whole.items()} for part in (slice(0, 4), slice(4, 10))]
    if kind == "npz":
        np.savez(folder / "a.npz", **whole)
        return str(folder / "a.npz")
    if kind == "npz folder":
        for name, part in zip(("b.npz", "a.npz"), reversed(parts), strict=True):
            np.savez(folder / name, **part)
        return folder
    if kind == "json file":
        save_json(parts, str(folder / "a.json"))
        return folder / "a.json"
    if kind == "json folder":
        for i, part in enumerate(parts):
            save_json(part, str(folder / f"{i:010d}.json"))
        return folder
    if kind == "script":
        (folder / "a.py").write_text(SCRIPT)
        return folder / "a.py"
    return {"list": parts, "generator": (part for part in parts), "dict": whole, "reader": Reader(parts)}[kind]


KINDS = ["npz", "npz folder", "json file", "json folder", "script", "list", "generator", "dict", "reader"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_single_samples(tmp_path, kind):
    source = open_source(as_kind(kind, tmp_path), (IDS, X))
    feeds = feeds_of(source)
    assert source.count == (10 if kind.startswith("npz") else None)
    assert [(feed["x"].shape, feed["ids"].shape) for feed in feeds] == [((1, 3), (1, 5))] * 10
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), rows(10))
    np.testing.assert_array_equal(np.concatenate([feed["ids"] for feed in feeds]), ids(10))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_refuses_the_same_way(tmp_path, kind):
    refused(as_kind(kind, tmp_path), (IDS, InputSpec("x", "float64", ("batch", 3))), "input 'x' is float32, the model")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 200))
def test_chunks_and_batches_do_not_change_the_data(tmp_path_factory, count, batch_size, chunk_bytes):
    path = tmp_path_factory.mktemp("data") / "a.npz"
    np.savez(path, x=rows(count), ids=ids(count))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed_cut, "CHUNK_BYTES", chunk_bytes)
        batches = list(batched(open_source(path, (X, IDS)).units, batch_size))
    assert [sample_count(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in batches]), rows(count))
    np.testing.assert_array_equal(np.concatenate([batch["ids"] for batch in batches]), ids(count))


def test_lengths_that_vary_from_feed_to_feed():
    data = [{"ids": ids(3, 5)}, {"ids": ids(2, 7)}]
    batches = list(batched(open_source(data, (IDS,)).units, 8))
    assert [batch["ids"].shape for batch in batches] == [(3, 5), (2, 7)]


def test_a_refilled_buffer_does_no_harm():
    buffer = np.zeros((1, 3), np.float32)

    def loader() -> Iterator[Feed]:
        for i in range(4):
            buffer[:] = i
            yield {"x": buffer}

    assert next(batched(open_source(loader(), (X,)).units, 4))["x"][:, 0].tolist() == [0, 1, 2, 3]


def test_fixed_batch_gives_whole_batches_and_says_what_it_drops(tmp_path):
    np.savez(tmp_path / "a.npz", x=rows(11))
    source = open_source(tmp_path / "a.npz", (FIXED,))
    assert (source.count, source.dropped, source.unit_size) == (8, 3, 4)
    batches = list(batched(source.units, 64))
    assert [batch["x"].shape for batch in batches] == [(4, 3), (4, 3)]
    np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in batches]), rows(8))


def test_fixed_batch_that_nothing_fills(tmp_path):
    np.savez(tmp_path / "a.npz", x=rows(3))
    refused(tmp_path / "a.npz", (FIXED,), r"a\.npz: 3 samples do not fill one batch: the model's axis 0 is fixed at 4")


def test_fixed_batch_from_an_iterable_is_cut_where_it_divides():
    assert [feed["x"].shape for feed in feeds_of(open_source([{"x": rows(8)}], (FIXED,)))] == [(4, 3)] * 2
    refused([{"x": rows(8)}, {"x": rows(3)}], (FIXED,), "feed 1: input 'x' has 3 samples; .*fixed at 4.*drop_last")


def test_constants_go_with_every_feed_and_stand_last(tmp_path):
    table = InputSpec("table", "float32", (2, 2))
    np.savez(tmp_path / "a.npz", x=rows(5), table=np.eye(2, dtype=np.float32), scale=np.float32(3))
    feeds = feeds_of(open_source(tmp_path / "a.npz", (SCALE, table, X)))
    assert [list(feed) for feed in feeds] == [["x", "scale", "table"]] * 5
    assert all(np.array_equal(feed["table"], np.eye(2)) and feed["scale"] == 3 for feed in feeds)
    assert [sample_count(batch) for batch in batched(open_source(tmp_path / "a.npz", (SCALE, table, X)).units, 4)] == [
        4,
        1,
    ]


def test_constant_beside_a_fixed_batch(tmp_path):
    other = InputSpec("other", "float32", (4, 2))
    np.savez(tmp_path / "a.npz", x=rows(12), other=rows(4, 2))
    feeds = feeds_of(open_source(tmp_path / "a.npz", (FIXED, other)))
    assert len(feeds) == 3
    assert all(np.array_equal(feed["other"], rows(4, 2)) for feed in feeds)
    np.savez(tmp_path / "a.npz", x=rows(4), other=rows(4, 2))
    assert len(feeds_of(open_source(tmp_path / "a.npz", (FIXED, other)))) == 1


def test_fixed_batches_of_several_sizes_go_side_by_side(tmp_path):
    pairs = InputSpec("pairs", "float32", (2, 3))
    np.savez(tmp_path / "a.npz", x=rows(12), pairs=rows(6))
    feeds = feeds_of(open_source(tmp_path / "a.npz", (FIXED, pairs)))
    assert [(feed["x"].shape, feed["pairs"].shape) for feed in feeds] == [((4, 3), (2, 3))] * 3
    np.testing.assert_array_equal(np.concatenate([feed["pairs"] for feed in feeds]), rows(6))


def test_one_more_axis_gives_whole_feeds(tmp_path):
    mask = InputSpec("mask", "float32", ("tokens", "tokens"))
    np.savez(tmp_path / "a.npz", mask=rows(50, 5).reshape(10, 5, 5), scale=np.arange(10, dtype=np.float32))
    source = open_source(tmp_path / "a.npz", (mask, SCALE))
    batches = list(batched(source.units, 8))
    assert [(batch["mask"].shape, batch["scale"].shape) for batch in batches] == [((5, 5), ())] * 10
    assert [float(batch["scale"]) for batch in batches] == list(range(10))
    assert source.count == sum(sample_count(batch) for batch in batches)


def test_groups_and_labels_of_npz_and_feeds(tmp_path):
    group = np.array(["a", "a", "b", "b"])
    np.savez(tmp_path / "a.npz", x=rows(4), group=group, labels=np.array([1, 2, 3, 4]))
    assert [unit.group for unit in open_source(tmp_path / "a.npz", (X,)).units] == ["a", "a", "b", "b"]
    units = list(open_source([{"x": rows(2), "group": 7}, {"x": rows(2), "group": [7, 8]}], (X,)).units)
    assert [unit.group for unit in units] == [7, 7, 7, 8]
    assert all(unit.feed.keys() == {"x"} for unit in units)


def test_an_input_called_group_is_an_input(tmp_path):
    np.savez(tmp_path / "a.npz", group=rows(4))
    units = list(open_source(tmp_path / "a.npz", (InputSpec("group", "float32", ("batch", 3)),)).units)
    assert [unit.group for unit in units] == [None] * 4
    assert units[0].feed.keys() == {"group"}


def test_groups_inside_fixed_batches(tmp_path):
    np.savez(tmp_path / "a.npz", x=rows(9), group=np.array([1] * 4 + [2] * 4 + [3]))
    assert [unit.group for unit in open_source(tmp_path / "a.npz", (FIXED,)).units] == [1, 2]
    np.savez(tmp_path / "a.npz", x=rows(8), group=np.array([1] * 4 + [2, 2, 2, 3]))
    refused(tmp_path / "a.npz", (FIXED,), "samples 4 to 7 make one batch .* belong to different groups")


@pytest.mark.parametrize("group", [np.arange(3), np.arange(4.0), np.zeros((4, 1), np.int64)])
def test_group_of_wrong_length_or_dtype(tmp_path, group):
    np.savez(tmp_path / "a.npz", x=rows(4), group=group)
    refused(tmp_path / "a.npz", (X,), r"'group' is .* of shape .*; expected integers or text of shape \(4,\)")


def test_a_spool_is_data_too(tmp_path):
    with SpoolWriter(tmp_path / "held_out.npz", 3) as spool:
        for unit in open_source([{"x": rows(7), "ids": ids(7)}], (X, IDS)).units:
            spool.write(unit)
    source = open_source(tmp_path / "held_out.npz", (X, IDS))
    assert source.count == 7
    np.testing.assert_array_equal(joined(source), rows(7))


def test_text_inputs(tmp_path):
    text = InputSpec("text", "object", ("batch",))
    np.savez(tmp_path / "a.npz", text=np.array(["one", "three"]))
    assert joined(open_source(tmp_path / "a.npz", (text,)), "text").tolist() == ["one", "three"]
    refused([{"text": np.array(["one"], dtype=object)}], (text,), r"'text' is object, the model takes str; .*astype")


def test_column_major_and_foreign_byte_order(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(rows(10)))
    np.testing.assert_array_equal(joined(open_source(tmp_path / "a.npz", (X,))), rows(10))
    feeds = feeds_of(open_source([{"x": rows(3, 10).T.astype(">f4")}], (X,)))
    assert all(feed["x"].dtype.isnative and feed["x"].flags.c_contiguous for feed in feeds)
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), rows(3, 10).T)
