"""Progress: the items pass through unchanged, and only stderr shows anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from rankfold.tools.progress import shown_progress
from rankfold.tools.run_notes import RUN_FOLDER, noted_stage


@pytest.mark.parametrize("forced", ["", "1"])
@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("total", [3, None])
def test_items_pass_unchanged_and_stdout_stays_empty(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], forced: str, quiet: bool, total: int | None
) -> None:
    monkeypatch.setenv("FORCE_COLOR", forced)
    with shown_progress(quiet=quiet) as progress:
        assert list(progress(iter([3, 1, 2]), "reading [batches]", total)) == [3, 1, 2]
    output, shown = capsys.readouterr()
    assert output == ""
    assert ("reading [batches]" in shown) is not quiet
    assert ("3/3" in shown) is (bool(forced) and not quiet)


def test_away_from_a_terminal_a_stage_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with shown_progress() as progress:
        list(progress(range(40), "calibrating", 40))
        list(progress(range(2), "comparing", None))
    assert capsys.readouterr().err == "calibrating (40) ...\ncomparing ...\n"


@pytest.mark.parametrize("forced", ["", "1"])
@pytest.mark.parametrize("quiet", [False, True])
def test_the_stage_is_noted_for_the_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forced: str, quiet: bool
) -> None:
    monkeypatch.setenv("FORCE_COLOR", forced)
    monkeypatch.setenv(RUN_FOLDER, str(tmp_path))
    assert noted_stage(tmp_path) == ""
    with shown_progress(quiet=quiet) as progress:
        for _ in progress([1], "calibrating", 1):
            assert noted_stage(tmp_path) == "calibrating"
