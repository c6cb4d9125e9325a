"""Tables of an ablation, from figures that are known."""

from __future__ import annotations

from topk_ortho.config import TrainConfig
from topk_ortho.studies.comparison import tables
from topk_ortho.studies.grid import Axis
from topk_ortho.studies.plan import Plan, Run, runs_of, subjects

TAU = Axis("penalty.tau", ("fixed", "mean-std"))
GRADIENT = Axis("penalty.gradient", ("child-only", "symmetric"))
SEEDS = (100, 101, 102)


def plan(*axes: Axis, names=("none",)) -> Plan:
    base = TrainConfig()
    return Plan(base, axes, names, (), SEEDS, runs_of(subjects(base, axes, names), SEEDS))


def figures(run: Run, *, excess: float, **more) -> dict:
    """Each seed has an offset of its own, which pairing takes out again."""
    noise = 0.1 * (run.seed - 100)
    found = {"excess": excess + noise, "explained_variance": 0.9, "l0": 8.0, "step_ms": 2.0,
             "dead_features": 0.0}  # fmt: skip
    return found | more


def lines_of(text: str, title: str) -> list[str]:
    block = next(b for b in text.split("\n\n") if b.startswith(title))
    return block.splitlines()[2:]


def test_differences_are_paired_by_seed():
    def result(run):
        jitter = 0.001 * (run.seed - 101)
        return figures(run, excess={"none": 0.2}.get(run.arm, 0.1) + jitter * (run.arm != "none"))

    text = tables(plan(TAU), result)
    fixed, mean_std = lines_of(text, "penalty.tau against none")
    assert fixed.startswith("fixed ") and "-0.100 [-0.102, -0.098]" in fixed
    assert "better" in fixed and "better" in mean_std
    (against,) = lines_of(text, "penalty.tau against fixed")
    assert "+0.000 [+0.000, +0.000]" in against and "no detectable change" in against


def test_an_axis_averages_over_the_other_one():
    def result(run):
        if run.arm == "none":
            return figures(run, excess=0.3)
        tau, gradient = run.axis["penalty.tau"], run.axis["penalty.gradient"]
        return figures(run, excess=0.1 * (tau == "fixed") + 0.02 * (gradient == "symmetric"))

    text = tables(plan(TAU, GRADIENT), result)
    fixed, mean_std = lines_of(text, "penalty.tau against none")
    assert "-0.190 [" in fixed and "-0.290 [" in mean_std
    child, symmetric = lines_of(text, "penalty.gradient against none")
    assert "-0.250 [" in child and "-0.230 [" in symmetric


def test_a_failed_run_takes_its_seed_out_of_the_pairs():
    def result(run):
        if run.arm == "variant" and run.seed == 101:
            return None
        return figures(run, excess=0.2 if run.arm == "none" else 0.1)

    (line,) = lines_of(tables(plan(), result), "against none")
    assert "-0.100 [-0.100, -0.100]" in line

    def one_left(run):
        return None if run.arm == "variant" and run.seed > 100 else result(run)

    (line,) = lines_of(tables(plan(), one_left), "against none")
    assert "unavailable" in line and "-0.100" not in line


def test_a_damaged_sae_wins_nothing():
    def result(run):
        bad = run.arm == "variant"
        return figures(run, excess=0.0 if bad else 0.2, explained_variance=0.3 if bad else 0.9)

    text = tables(plan(), result)
    (line,) = lines_of(text, "against none")
    assert "invalid" in line and "better" not in line
    assert "* default: invalid" in text


def test_another_l0_is_said():
    def result(run):
        return figures(run, excess=0.1, l0=8.0 if run.arm == "none" else 7.0)

    (line,) = lines_of(tables(plan(), result), "against none")
    assert "L0 not matched" in line


def test_nothing_finished_is_no_table():
    assert tables(plan(TAU), lambda run: None) == "No run has finished."


def test_an_excess_below_0_is_not_made_better():
    def result(run):
        jitter = 0.0001 * (run.seed - 101)
        below = {"none": -0.001}.get(run.arm, -0.013) + jitter * (run.arm != "none")
        return figures(run, excess=below) | {"excess": below}

    fixed, _ = lines_of(tables(plan(TAU), result), "penalty.tau against none")
    assert "-0.012 [" in fixed and "nothing to remove" in fixed and "better" not in fixed
