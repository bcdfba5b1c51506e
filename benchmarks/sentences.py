"""English sentences out of the docstrings of numpy and scipy: `python -m benchmarks.sentences [--work DIR]`.

The sources are parsed, not imported, so that the same versions (those of constraints.txt) give the same sentences
everywhere. All sentences of one function or class are one group, and no group crosses the splits.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

PACKAGES = ("numpy", "scipy")
SIZES = {"calibration": 1024, "validation": 512, "test": 2000, "healing": 8000}  # drawn in this order
SEED = 0
WORDS = (6, 40)  # fewer are headings, more are lists; MiniLM was trained on sentences and short paragraphs
_LEAST_LETTERS = 0.75  # of all characters; below that it is a formula or code
_CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
_FILE = "sentences.json"

_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_UNDERLINE = re.compile(r"^\s*([-=~^*])\1{2,}\s*$")
_MARKUP = (
    (re.compile(r":[\w:]+:`~?([^`<]+?)(?:\s*<[^>]*>)?`"), r"\1"),  # :func:`name`
    (re.compile(r"`{1,2}([^`]+)`{1,2}_*"), r"\1"),
    (re.compile(r"\*{1,2}([^*\s][^*]*)\*{1,2}"), r"\1"),
    (re.compile(r"\s*\[\w+\]_"), ""),  # a citation
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True)
class Sentence:
    """A sentence and the function or class that it is said of."""

    text: str
    group: str


def main() -> None:
    """Write the sentences, and print how many there are and what their bytes hash to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(), help="folder for the file; default: this one")
    path = written(parser.parse_args().work)
    for name, sentences in read(path).items():
        print(f"{name}: {len(sentences)} sentences of {len({sentence.group for sentence in sentences})} objects")
    print(f"{path}: sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


def written(folder: Path) -> Path:
    """Write the splits into a folder, unless they are there, and return the path."""
    path = folder / _FILE
    if not path.exists():
        check_versions()
        found = splits(_all_sentences(), SIZES, seed=SEED)
        folder.mkdir(parents=True, exist_ok=True)
        rows = {name: [[sentence.group, sentence.text] for sentence in part] for name, part in found.items()}
        path.write_text(json.dumps(rows, indent=1) + "\n")
    return path


def read(path: Path) -> dict[str, list[Sentence]]:
    """Return the splits of a file, by name."""
    return {
        name: [Sentence(text, group) for group, text in part] for name, part in json.loads(path.read_text()).items()
    }


def check_versions() -> None:
    """Refuse other versions than those that constraints.txt pins: their sentences are others."""
    pinned = dict(line.split("==") for line in _CONSTRAINTS.read_text().splitlines() if "==" in line)
    for package in PACKAGES:
        if (found := metadata.version(package)) != pinned[package]:
            raise SystemExit(f"{package} {found} is installed; the sentences are those of {package}=={pinned[package]}")


def splits(found: Iterable[Sentence], sizes: dict[str, int], *, seed: int) -> dict[str, list[Sentence]]:
    """Return as many sentences per split as asked for, groups drawn at random.

    What a group has left when its split is full is dropped: it belongs to no other.
    """
    groups: dict[str, list[Sentence]] = {}
    for sentence in found:
        groups.setdefault(sentence.group, []).append(sentence)
    order = np.random.default_rng(seed).permutation(sorted(groups)).tolist()
    drawn = {}
    for name, size in sizes.items():
        part: list[Sentence] = []
        while len(part) < size:
            if not order:
                raise SystemExit(f"too few sentences: {len(part)} are left for {size} of {name}")
            part += groups[order.pop()]
        drawn[name] = part[:size]
    return drawn


def _all_sentences() -> Iterator[Sentence]:
    """Yield every sentence of the packages once, under the first object that says it."""
    seen: set[str] = set()
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        root = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else Path()
        for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
            place = f"{package}/{path.relative_to(root).as_posix()}"
            if "/tests/" not in place:
                yield from _new(docstrings(ast.parse(path.read_bytes()), place), seen)


def _new(documented: Iterable[tuple[str, str]], seen: set[str]) -> Iterator[Sentence]:
    for group, text in documented:
        for sentence in sentences(text):
            if sentence.casefold() not in seen:
                seen.add(sentence.casefold())
                yield Sentence(sentence, group)


def docstrings(tree: ast.Module, place: str) -> Iterator[tuple[str, str]]:
    """Yield the docstrings of a module with the outermost function or class that each lies in."""
    yield place, ast.get_docstring(tree) or ""
    for outer in tree.body:
        for node in ast.walk(outer):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield f"{place}:{getattr(outer, 'name', '')}", ast.get_docstring(node) or ""


def sentences(docstring: str) -> Iterator[str]:
    """Yield the sentences of a docstring's prose, without markup; code, formulas, headings and tables are no prose."""
    for paragraph in _paragraphs(docstring.splitlines()):
        text = paragraph
        for pattern, replacement in _MARKUP:
            text = pattern.sub(replacement, text)
        yield from filter(_is_sentence, _END.split(text.strip()))


def _paragraphs(lines: list[str]) -> Iterator[str]:
    """Yield runs of lines with one indentation, but for those of doctests and of `.. directives`."""
    run: list[str] = []
    skipped_below: int | None = None  # inside a directive: everything that stands deeper than it
    for line in [*lines, ""]:
        indent = len(line) - len(line.lstrip())
        if skipped_below is not None and line.strip() and indent <= skipped_below:
            skipped_below = None
        if skipped_below is None and line.lstrip().startswith(".. "):
            skipped_below = indent
        if _UNDERLINE.match(line):  # what stands on it is a heading, what follows may be prose
            run = []
            continue
        if run and (not line.strip() or indent != _indent(run) or skipped_below is not None):
            yield from _prose(run)
            run = []
        if line.strip() and skipped_below is None:
            run.append(line)


def _indent(run: list[str]) -> int:
    return len(run[-1]) - len(run[-1].lstrip())


def _prose(run: list[str]) -> Iterator[str]:
    if not any(line.lstrip().startswith((">>>", "...", "|")) for line in run):
        yield " ".join(line.strip() for line in run)


def _is_sentence(text: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in text)
    return (
        text[:1].isupper()
        and text[-1:] in ".!?"
        and text.isascii()
        and WORDS[0] <= len(text.split()) <= WORDS[1]
        and letters >= _LEAST_LETTERS * len(text)
        and " : " not in text
        and "\\" not in text
    )


if __name__ == "__main__":
    main()
