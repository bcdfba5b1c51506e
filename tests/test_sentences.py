"""Cutting docstrings into sentences, and the splits that no function crosses."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from benchmarks import sentences
from benchmarks.sentences import Sentence, docstrings, splits

DOCSTRING = """
    Return the sum of the squares of all of the numbers.

    It is like :func:`numpy.sum`, but for ``squares`` that are
    summed in *pairs* [1]_. A second sentence follows the first one, e.g. this.

    Parameters
    ----------
    x : array_like
        The numbers that are squared and summed, in any order.

    .. versionadded:: 1.2
        This was not there before that version of it.

    .. math::

        The formula is no sentence of this docstring at all.

    Too short.

    >>> Some code and what it prints are no sentences at all.

    Notes
    -----
    The rounding error grows with the number of the summands.
"""


def test_prose_is_cut_into_sentences_without_markup() -> None:
    assert list(sentences.sentences(ast.get_docstring(ast.parse(f'"""{DOCSTRING}"""')) or "")) == [
        "Return the sum of the squares of all of the numbers.",
        "It is like numpy.sum, but for squares that are summed in pairs.",
        "A second sentence follows the first one, e.g. this.",
        "The numbers that are squared and summed, in any order.",
        "The rounding error grows with the number of the summands.",
    ]


NO_SENTENCES = [
    "Five words are too few.",
    "no capital letter stands at the front of this one.",
    "There is no mark at the end of this",
    "The formula 3 + 4 * 5 - 6 / 7 = 8 ** 9 % 10 + 11 - 12.",
    "The symbol \\chi is markup that was left in this one.",
    "The name ü is not ASCII in this short sentence.",
    "A table : of this kind is not a sentence at all.",
    " ".join(["Word", *["word"] * 40]) + ".",
]


@pytest.mark.parametrize("text", NO_SENTENCES)
def test_what_is_no_sentence_is_left_out(text: str) -> None:
    assert list(sentences.sentences(text)) == []


def test_methods_belong_to_their_class() -> None:
    text = '"""M."""\nclass A:\n    """C."""\n    def f(self):\n        """F."""\ndef g():\n    """G."""\n'
    found = list(docstrings(ast.parse(text), "m.py"))
    assert found == [("m.py", "M."), ("m.py:A", "C."), ("m.py:A", "F."), ("m.py:g", "G.")]


def numbered(groups: int, each: int) -> list[Sentence]:
    return [Sentence(f"{group} {number}", str(group)) for group in range(groups) for number in range(each)]


def test_splits_are_full_and_share_no_group() -> None:
    found = splits(numbered(40, 7), {"calibration": 50, "test": 100}, seed=0)
    assert {name: len(part) for name, part in found.items()} == {"calibration": 50, "test": 100}
    groups = [{sentence.group for sentence in part} for part in found.values()]
    assert not groups[0] & groups[1]


def test_splits_follow_the_seed_and_not_the_order() -> None:
    first = splits(numbered(40, 7), {"test": 100}, seed=0)
    assert splits(sorted(numbered(40, 7), key=lambda s: int(s.group), reverse=True), {"test": 100}, seed=0) == first
    assert splits(numbered(40, 7), {"test": 100}, seed=1) != first


def test_too_few_sentences_are_refused() -> None:
    with pytest.raises(SystemExit, match="14 are left for 20 of test"):
        splits(numbered(2, 7), {"test": 20}, seed=0)


def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.0")
    with pytest.raises(SystemExit, match=r"numpy 0\.0 is installed; the sentences are those of numpy=="):
        sentences.check_versions()


def test_a_sentence_is_taken_once_and_files_hold_what_was_drawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "made_up_prose"
    (folder / "tests").mkdir(parents=True)
    said = "The first sentence of this module is said in it twice."
    text = f'"""{said}"""\ndef f():\n    """{said}  This one is said by the function alone, and once."""\n'
    for place in ("__init__.py", "more.py", "tests/test_it.py"):
        (folder / place).write_text(text.replace("module", "test") if "tests" in place else text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sentences, "PACKAGES", ("made_up_prose",))
    monkeypatch.setattr(sentences, "SIZES", {"test": 1, "calibration": 1})
    monkeypatch.setattr(sentences, "check_versions", lambda: None)
    found = sentences.read(sentences.written(tmp_path))
    assert sorted((s.group, s.text) for part in found.values() for s in part) == [
        ("made_up_prose/__init__.py", said),
        ("made_up_prose/__init__.py:f", "This one is said by the function alone, and once."),
    ]
