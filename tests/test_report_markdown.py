"""The Markdown page: what was asked, what came out, and nothing that breaks its tables."""

from __future__ import annotations

import re
from dataclasses import replace

from report_examples import REPORT, SITES

from rankfold.tools.limits import error_limit, speedup_limit
from rankfold.tools.report_markdown import report_to_markdown


def section(page: str, title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r} in\n{page}"
    return found.group(1)


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def rows(text: str) -> list[list[str]]:
    return [cells(line) for line in text.splitlines() if line.startswith("|")]


def test_the_head_says_what_was_asked_and_what_came_out() -> None:
    head = report_to_markdown(REPORT).split("## ")[0]
    assert head.startswith("# rankfold: `base.onnx` → `small.onnx`\n")
    assert "Asked for: **keep 0.5**" in head
    assert "**44.13 %** of the linear parameters kept, 2 of 3 linear weights folded" in head
    assert "1,600 samples" in head
    assert "400 held-out samples" in head
    assert "nothing was changed" not in head


def test_every_table_has_as_many_cells_in_each_row_as_in_its_head() -> None:
    page = report_to_markdown(REPORT)
    for block in page.split("\n\n"):
        widths = {len(row) for row in rows(block)}
        assert len(widths) <= 1, block


def test_quality_latency_sites_and_size_are_told() -> None:
    page = report_to_markdown(REPORT)
    assert rows(section(page, "Quality"))[2] == [
        *("`logits`", "0.125", "0.992188", "0.75", "0.0625", "96.88 %", "0.76")
    ]
    assert rows(section(page, "Quality"))[3][5] == "-"
    assert "within the tolerance of 0.00024" in section(page, "Quality")
    assert "pivoted factors 2e-08 from the matrix they stand for" in section(page, "Quality")
    assert rows(section(page, "Latency"))[2] == [
        *("cpu", "1", "2.50 ms (2.25 to 2.75)", "2.00 ms (1.75 to 2.25)", "1.25×")
    ]
    assert rows(section(page, "Sites"))[2] == [*("`blocks.0/fc1[a]`", "48 × 64", "8", "3,072 → 896", "3.1 %", "4.7 %")]
    assert rows(section(page, "Sites"))[4][2:4] == ["dense", "480"]
    assert rows(section(page, "Size"))[2:] == [
        ["parameters of linear weights", "6,816", "3,008", "44.13 %"],
        ["parameters of the model", "7,000", "3,192", "45.60 %"],
        ["bytes", "28,500", "14,250", "50.00 %"],
    ]


def test_skipped_nodes_are_counted_by_reason() -> None:
    lines = section(report_to_markdown(REPORT), "Left as they are").strip().splitlines()
    assert lines == [
        "- 2 × MatMul (first `scores`): neither operand is constant",
        "- 1 × Conv (first `patch|conv`): convolutions are not folded yet",
    ]


def test_how_to_reproduce_is_told() -> None:
    text = section(report_to_markdown(REPORT, commands=["polygraphy run a", "polygraphy run b"]), "Reproduce")
    assert "```sh\npolygraphy run a\npolygraphy run b\n```" in text
    assert f"| `models/base.onnx` | `{'a' * 64}` |" in text
    assert "rankfold 0.1.0, onnxruntime 1.31.1." in text
    assert "Settings: batch_size 8, seed 0." in text
    assert "```" not in section(report_to_markdown(REPORT), "Reproduce")


def test_limits_are_told_met_or_not() -> None:
    limits = (*error_limit(REPORT.discrepancy, 0.1), *speedup_limit(REPORT.latency, 1.0))
    first, second = section(report_to_markdown(REPORT, limits=limits), "Stated limits").strip().splitlines()
    assert first.startswith("- **limit exceeded: relative L2 error of output 'logits' is 0.125")
    assert second == "- met: speed-up at batch 1 on cpu is 1.25, --min-speedup states 1"


def test_a_large_model_stays_one_page() -> None:
    many = tuple(replace(SITES[0], name=f"layer{number}", measured_error=number / 1000) for number in range(100))
    page = report_to_markdown(replace(REPORT, sites=many))
    shown = rows(section(page, "Sites"))[2:]
    assert len(shown) == 24
    assert shown[0][0] == "`layer99`"
    assert "24 of 100" in section(page, "Sites")


def test_a_report_of_an_unchanged_model_says_so_and_leaves_empty_sections_out() -> None:
    bare = replace(REPORT, changed=False, self_check=None, latency=(), sites=(), skipped=(), warnings=())
    page = report_to_markdown(bare)
    assert "Nothing was folded" in page
    titles = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert titles == ["Size", "Quality", "Reproduce"]


def test_a_self_check_out_of_tolerance_stands_out() -> None:
    assert REPORT.self_check is not None
    failed = replace(REPORT, self_check=replace(REPORT.self_check, unseen=0.5))
    assert "**outside** the tolerance" in section(report_to_markdown(failed), "Quality")


def test_notes_and_the_sites_that_were_checked_are_told() -> None:
    noted = replace(REPORT, notes=("the data was swept twice",), latency=(replace(REPORT.latency[0], note="care"),) * 2)
    page = report_to_markdown(noted)
    assert section(page, "Notes").strip().endswith("- the data was swept twice")
    assert section(page, "Latency").count("Run with care.") == 1
    assert "2 of 2 sites were checked." in section(page, "Quality")
