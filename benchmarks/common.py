"""What the benchmarks share: where data lies, how a machine is named, how results are written."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankfold.measures import versions
from rankfold.runtime_calib.sessions import open_session
from rankfold.runtime_calib.threads import available_cpus
from rankfold.values import Provider

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
STUDIES = Path(__file__).parent.parent / "docs" / "studies.md"
PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
KEEPS = (0.75, 0.50, 0.33)


def fashion_mnist() -> Path:
    """Return the folder of Fashion-MNIST's idx.gz files: $FASHION_MNIST, or Debian's `dataset-fashion-mnist`."""
    folder = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
    if not folder.is_dir():
        raise SystemExit(f"{folder}: no such folder; name one with Fashion-MNIST's idx.gz files in $FASHION_MNIST")
    return folder


def machine() -> dict[str, Any]:
    """Return what a reader needs to judge the times."""
    return {"cpu": _cpu_name(), "cpus": available_cpus(), "system": platform.system(), "versions": versions()}


def write_results(
    name: str, content: dict[str, Any], table: str, *, page: Path = README, folder: Path = RESULTS
) -> None:
    """Write `folder/NAME.json`, and put the table between the page's marks for NAME, if it has them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{name}.json", json.dumps({"machine": machine(), **content}, indent=2) + "\n")
    write_between(name, table, page)
    print(table)


def write_between(name: str, table: str, page: Path) -> None:
    """Put a table between a page's marks for NAME; a page without them stays as it is."""
    text = page.read_text()
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    if re.search(pattern, text, flags=re.DOTALL):
        write_whole(page, re.sub(pattern, lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, numbers to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def outputs(model: Path, inputs: NDArray[np.float32], *, batch: int, provider: Provider = "cpu") -> NDArray[np.float64]:
    """Return a model's first output over all inputs, float64."""
    session = open_session(model, provider=provider)
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: inputs[start : start + batch]})[0] for start in range(0, len(inputs), batch)]
    return np.concatenate(parts).astype(np.float64)


def told(name: str) -> Any:
    """Return what prints a line now and then, with what is left to go: runs in the background are read in a file."""

    def watched(items: Iterable[Any], description: str, total: int | None) -> Iterator[Any]:
        start = said = time.monotonic()
        for number, item in enumerate(items):
            yield item
            now = time.monotonic()
            if now - said > _SAID_EVERY_S and total:
                left = (now - start) / (number + 1) * (total - number - 1)
                print(f"{name}: {description} {number + 1} of {total}, {left / 60:.1f} minutes left", flush=True)
                said = now

    return watched


_SAID_EVERY_S = 30.0


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found.group(1) if found else platform.processor()
