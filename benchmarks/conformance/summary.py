"""From the outcomes of all models to the counts and the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from benchmarks.common import markdown
from benchmarks.conformance.outcome import FAILURES, plain_reason

Entry = dict[str, Any]
TITLES = {
    "node": "onnx's operator cases",
    "shipped": "onnx's shipped models",
    "texts": "hand-written graphs",
    "torch": "torch's two exporters",
    "sklearn": "scikit-learn by skl2onnx",
    "runtime": "onnxruntime's optimisers and quantisers",
}


def summary(found: dict[str, list[Entry]]) -> dict[str, Any]:
    """Return the counts of every part and of all together, the failures, and the models with figures."""
    everything = [entry for entries in found.values() for entry in entries]
    return {
        "parts": {part: _counts(entries) for part, entries in found.items()},
        "linear cases folded frozen": _linear_frozen(everything),
        "folds by pattern": _added(entry.get("folds", {}) for entry in everything if entry["status"] == "folded"),
        "skips by reason": _added(entry.get("skips", {}) for entry in everything),
        "refusals by reason": _reasons(everything, "refused"),
        "notes": _sorted(Counter(_short(note) for entry in everything for note in entry.get("notes", []))),
        "failures": [line for entry in everything for line in _failures(entry)],
        "models": [_row(entry) for entry in everything if entry.get("figures")],
    }


def table(content: dict[str, Any]) -> str:
    """Return the table for the README."""
    rows = []
    for part, counts in content["parts"].items():
        failed = sum(counts.get(status, 0) for status in FAILURES)
        whole = counts["all"] - counts.get("not run", 0) - counts.get("not made", 0)
        row = (whole, counts.get("folded", 0), counts["folds"], counts.get("refused", 0), failed)
        rows.append((TITLES[part], *(f"{number:,}" for number in row)))
    head = ("models that onnxruntime runs", "all", "folded", "weights folded", "refused", "failed")
    return markdown(head, rows)


def _counts(entries: list[Entry]) -> dict[str, int]:
    counts = Counter(entry["status"] for entry in entries)
    folds = sum(sum(entry.get("folds", {}).values()) for entry in entries if entry["status"] == "folded")
    return {"all": len(entries), "folds": folds, **_sorted(counts)}


def _linear_frozen(entries: Iterable[Entry]) -> int:
    """Return how many cases of MatMul, Gemm and Conv were folded once their weights were frozen."""
    return sum(
        entry["status"] == "folded" and any(name.split()[0] in ("MatMul", "Gemm", "Conv") for name in entry["folds"])
        for entry in entries
        if ", frozen" in entry["case"]
    )


def _added(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    whole: Counter[str] = Counter()
    for part in parts:
        whole.update(part)
    return _sorted(whole)


def _reasons(entries: Iterable[Entry], status: str) -> dict[str, int]:
    return _sorted(Counter(_short(entry["detail"]) for entry in entries if entry["status"] == status))


def _short(text: str) -> str:
    """Return a message without the path it begins with, and without one model's names and numbers."""
    words = text.split(" ")
    return plain_reason(" ".join(word for word in words if "/" not in word or "://" in word))[:200]


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def _failures(entry: Entry) -> list[str]:
    if entry["status"] not in FAILURES:
        return []
    reasons = [*entry.get("unexplained", []), *entry.get("differs", [])]
    return [f"{entry['case']}: {entry['status']}: {reason}" for reason in reasons or [entry.get("detail", "")[-400:]]]


def _row(entry: Entry) -> Entry:
    return {"model": entry["case"], "status": entry["status"], "folds": entry.get("folds", {}), **entry["figures"]}
