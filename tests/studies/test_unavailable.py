"""What studies and inspections print where a metric is unavailable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.report.test_unavailable import changed, each_instead, unavailable
from tests.studies.test_comparison import TAU, figures, plan
from topk_ortho.inspect.repair.repair import Repair
from topk_ortho.inspect.repair.text import as_text
from topk_ortho.studies.calibrate import Setting, choose
from topk_ortho.studies.comparison import tables

WHOLE = {"excess": 0.2, "absorption_rate": 0.5, "base_miss": 0.3, "explained_variance": 0.9,
         "l0": 8.0, "mcc": 0.8, "f1_child": 0.7, "f1_parent": 0.7, "step_ms": 2.0,
         "dead_features": 0.0, "ce_score": 0.95}  # fmt: skip


@unavailable
@each_instead
def test_the_tables_of_an_ablation(instead: Any) -> None:
    plans = [plan(), plan(TAU)]
    for key in WHOLE:
        for arm in ("none", "variant"):

            def result(run, key=key, arm=arm):
                whole = figures(run, **WHOLE)
                return changed(whole, key, instead) if run.arm == arm else whole

            for each in plans:
                text = tables(each, result)
                assert "+nan" not in text and "nan," not in text, key


@unavailable
@each_instead
def test_what_a_calibration_advises(instead: Any) -> None:
    for key in WHOLE:
        for arm in (0, 1):
            both = [WHOLE, WHOLE | {"excess": 0.02, "absorption_rate": 0.3}]
            both[arm] = changed(both[arm], key, instead)
            none, setting = (
                Setting(8.0, 2.0 * n, (), {seed: dict(metrics) for seed in (3, 4)})
                for n, metrics in enumerate(both)
            )
            _, why = choose(none, [setting])
            assert why.endswith("."), key


@unavailable
@each_instead
def test_the_sentence_of_a_repair(instead: Any, tmp_path: Path) -> None:
    for key in (*WHOLE, "suppressed_pairs"):
        before = WHOLE | {"suppressed_pairs": 10}
        done = Repair("sae", "saelens", "run", str(tmp_path), 5, "coactivation", 2.0, before,
                      changed(before, key, instead))  # fmt: skip
        assert "+nan" not in as_text(done)
