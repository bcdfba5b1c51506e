"""The commands of the report, run as they stand."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from rankfold.errors import OutputError
from rankfold.findings import Discrepancy, OutputDiscrepancy
from rankfold.runtime_calib.compare import compare
from rankfold.runtime_calib.spool import SpoolWriter, read_spool
from rankfold.runtime_calib.units import Unit
from rankfold.tools.polygraphy_files import polygraphy_commands, write_polygraphy_loader

INPUT = "in/x:0"  # as TensorFlow's exporters name them
WEIGHT = np.random.default_rng(3).standard_normal((4, 3)).astype(np.float32)


def save_model(path: Path, weight: np.ndarray) -> Path:
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4] x) => (float[N, 3] y, float[N, 3] z) { y = MatMul(x, W)
         z = Tanh(y) }""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "W"))
    model.graph.input[0].name = model.graph.node[0].input[0] = INPUT
    model.graph.output[0].name = model.graph.node[0].output[0] = model.graph.node[1].input[0] = "out/y:0"
    onnx.save(model, path)
    return path


def write_held_out(folder: Path) -> Path:
    random = np.random.default_rng(4)
    with SpoolWriter(folder / "held_out.npz", batch_size=3) as spool:
        for _ in range(7):
            spool.write(Unit({INPUT: random.standard_normal((1, 4)).astype(np.float32)}, joins=frozenset({INPUT})))
    return folder / "held_out.npz"


def run(command: str) -> int:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, shell=True, check=False, capture_output=True, env=environment).returncode


def test_loader_gives_the_held_out_batches(tmp_path: Path) -> None:
    held_out = write_held_out(tmp_path)
    loaded = list(runpy.run_path(str(write_polygraphy_loader(tmp_path)))["load_data"]())
    expected = list(read_spool(held_out))
    assert [len(feed[INPUT]) for feed in loaded] == [3, 3, 1]
    for feed, other in zip(loaded, expected, strict=True):
        assert list(feed) == [INPUT]
        np.testing.assert_array_equal(feed[INPUT], other[INPUT])


def test_loader_reads_the_file_it_is_told(tmp_path: Path) -> None:
    write_held_out(tmp_path).rename(tmp_path / "it's.npz")
    loaded = runpy.run_path(str(write_polygraphy_loader(tmp_path, "it's.npz")))["load_data"]()
    assert len(list(loaded)) == 3


def test_loader_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"absent.polygraphy_data\.py: the loader script cannot be written"):
        write_polygraphy_loader(tmp_path / "absent")


def test_commands_pass_and_fail_where_they_say(tmp_path: Path) -> None:
    report = tmp_path / "a report"
    report.mkdir()
    base = save_model(tmp_path / "base.onnx", WEIGHT)
    candidate = save_model(report / "it's.onnx", WEIGHT + np.float32(0.01))
    found = compare(base, candidate, read_spool(write_held_out(report)))
    write_polygraphy_loader(report)
    save, check = polygraphy_commands(base, candidate, report, found)
    assert run(save) == 0
    assert run(check) == 0
    tolerance = found.outputs[0].passing_atol
    assert run(check.replace(f"out/y:0:{tolerance!r}", f"out/y:0:{tolerance / 10!r}")) == 1
    only_y = Discrepancy(found.samples, found.outputs[:1])
    _, check_y = polygraphy_commands(base, candidate, report, only_y, all_outputs=False)
    assert run(check_y) == 0  # without `all_outputs=False`, z would have Polygraphy's own tolerance


def test_commands_name_provider_and_tolerances() -> None:
    output = OutputDiscrepancy("y", 0.1, 0.9, 0.5, 0.2, 1.0, 0.5, None, 0.00051)
    commands = polygraphy_commands(
        Path("a.onnx"), Path("b.onnx"), Path("report"), Discrepancy(3, (output,)), provider="cuda"
    )
    common = "--onnxrt --providers cuda --data-loader-script report/polygraphy_data.py"
    assert commands == (
        f"polygraphy run a.onnx {common} --save-outputs report/polygraphy_base_outputs.json",
        f"polygraphy run b.onnx {common} --load-outputs report/polygraphy_base_outputs.json --atol y:0.00051 --rtol 0",
    )
