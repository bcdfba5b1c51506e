"""A report built by hand: three sites, two outputs, one of them not finite, and every optional part there."""

from __future__ import annotations

from pathlib import Path

from rankfold.findings import Discrepancy, Latency, OutputDiscrepancy, Report, SelfCheck, SiteOutcome, Size
from rankfold.values import RankPlan, SiteRank, Skipped

LOGITS = OutputDiscrepancy("logits", 0.125, 0.9921875, 0.75, 0.0625, 3.5, 0.25, 0.96875, 0.76)
FEATURES = OutputDiscrepancy("features", 0.0625, float("nan"), 0.5, 0.03125, float("inf"), 0.125, None, 0.51)

PLAN = RankPlan(
    model_digest="a" * 64,
    made_by="keep 0.5",
    fixed_parameters=96,
    fixed_dense_parameters=192,
    sites=(
        SiteRank("blocks.0/fc1[a]", 48, 64, 8, 0.03125),
        SiteRank("blocks.0/fc2", 64, 48, 16, 0.0, form="pivoted"),
        SiteRank("head", 48, 10, None, 0.0),
    ),
)

SITES = (
    SiteOutcome("blocks.0/fc1[a]", "MatMul", 48, 64, 8, 3072, 896, 0.03125, 0.046875, 0.0, 6400, True),
    SiteOutcome("blocks.0/fc2", "Gemm", 64, 48, 16, 3072, 1536, 5e-8, 0.0009765625, 1e-6, 6400, True, form="pivoted"),
    SiteOutcome("head", "Gemm", 48, 10, None, 480, 480, 0.0, 0.0, 0.0, 6400, False),
)

REPORT = Report(
    source=Path("models/base.onnx"),
    output=Path("out/small.onnx"),
    source_digest="a" * 64,
    output_digest="b" * 64,
    versions={"rankfold": "0.1.0", "onnxruntime": "1.31.1"},
    settings={"batch_size": 8, "seed": 0, "mask": None},
    changed=True,
    plan=PLAN,
    linear_parameters=Size(6816, 3008),
    parameters=Size(7000, 3192),
    size_bytes=Size(28_500, 14_250),
    calibration_samples=1_600,
    held_out_samples=400,
    discrepancy=Discrepancy(400, (LOGITS, FEATURES)),
    self_check=SelfCheck(3e-7, 4e-8, 2.4e-4, 2, 2, 2e-8),
    latency=(
        Latency("cpu", 1, 2.5, 2.0, (2.25, 2.75), (1.75, 2.25), 1.25, 20),
        Latency("cpu", 8, 20.0, 10.0, (19.0, 21.0), (9.0, 11.0), 2.0, 20),
    ),
    sites=SITES,
    skipped=(
        Skipped("patch|conv", "Conv", "convolutions are not folded yet"),
        Skipped("scores", "MatMul", "neither operand is constant"),
        Skipped("mix", "MatMul", "neither operand is constant"),
    ),
    warnings=("site 'head' has 96 rows for 768 features",),
)
