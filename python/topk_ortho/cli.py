"""`topk-ortho`: one command for everything that is not a single training run, and for that too."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler's own log; before torch as well

import tyro

from topk_ortho.commands.options import (
    BarsOptions,
    CacheOptions,
    PairsOptions,
    PullOptions,
    PushOptions,
    RecipesOptions,
    ReportOptions,
    ReproduceOptions,
    ResultsOptions,
)
from topk_ortho.commands.reader import fail, parse
from topk_ortho.config import ConfigError, TrainConfig
from topk_ortho.config.rules import check
from topk_ortho.config.toml import nearest
from topk_ortho.inspect.evaluate.options import EvaluateOptions
from topk_ortho.studies.options import AblateOptions, CalibrateOptions, names_given, split
from topk_ortho.terminal import printable
from topk_ortho.train import guarded
from topk_ortho.train import main as train_main

Options = TypeVar("Options", AblateOptions, CalibrateOptions)


def _train(arguments: list[str]) -> int:
    return train_main(arguments, prog="topk-ortho train")


def _cache(arguments: list[str]) -> int:
    o = tyro.cli(CacheOptions, args=arguments, prog="topk-ortho cache")
    config = check(
        TrainConfig(
            activations="language-model",
            model=o.model,
            hook=o.hook,
            text=o.text,
            dataset=o.dataset,
            context=o.context,
            device=o.device,
        )
    )
    from topk_ortho.activations.cache import write_cache
    from topk_ortho.activations.prepare import open_language_model
    from topk_ortho.machine.hardware import choose_device

    written = write_cache(
        open_language_model(config, device=str(choose_device(o.device))),
        o.out,
        rows_per_shard=o.rows_per_shard,
        dtype=o.dtype,
        max_rows=o.max_rows,
        describe={"model": o.model, "hook": o.hook, "context": o.context},
    )
    print(f"{written['rows']} activations of width {written['d_in']} in {o.out}")
    return 0


def _bars(arguments: list[str]) -> int:
    o = tyro.cli(BarsOptions, args=arguments, prog="topk-ortho bars")
    from topk_ortho.studies.bars import run_bars

    return run_bars(
        o.setting, seeds=o.seeds, arms=o.arms, out=o.out, model=o.model, text=o.text, hook=o.hook
    )


def _doctor(arguments: list[str]) -> int:
    o = parse(arguments, prog="topk-ortho doctor")
    from topk_ortho.machine.doctor import examine
    from topk_ortho.training.folder import RunFolder

    config = o.settings if o.resume is None else RunFolder.open(o.resume)[1]
    report, fits = examine(config, o.out or o.resume)
    print(report)
    return 0 if fits else 1


def _recipes(arguments: list[str]) -> int:
    own, options = split(arguments, RecipesOptions)
    out = tyro.cli(RecipesOptions, args=own, prog="topk-ortho recipes").out
    if out is None:
        parse(options or ["--no-with-baseline"], prog="topk-ortho recipes")
        from topk_ortho.studies.recipes import listing

        print(listing())
        return 0
    from topk_ortho.studies.recipe_runs import run_recipes
    from topk_ortho.studies.recipes import RECIPES

    settings = {
        name: parse(["--recipe", name, *options], prog="topk-ortho recipes").settings
        for name in RECIPES
    }
    return run_recipes(options, out, settings=settings)


def _results(arguments: list[str]) -> int:
    o = tyro.cli(ResultsOptions, args=arguments, prog="topk-ortho results")
    from topk_ortho.studies.results import Material, run_results

    material = Material(o.model, o.text, o.hook)
    return run_results(material, out=o.out, jobs=o.jobs, page=o.page, only=o.only)


def _pairs(arguments: list[str]) -> int:
    o = tyro.cli(PairsOptions, args=arguments, prog="topk-ortho pairs")
    from topk_ortho.inspect.pairs import analyse, as_text

    found = analyse(o.run, top=o.top, contexts=o.contexts, samples=o.samples)
    _print(json.dumps(found.as_json(), indent=2) if o.json else as_text(found))
    return 0


def _reproduce(arguments: list[str]) -> int:
    o = tyro.cli(ReproduceOptions, args=arguments, prog="topk-ortho reproduce")
    from topk_ortho.inspect.reproduce import as_text, reproduce

    found = reproduce(o.run, out=o.out)
    _print(json.dumps(found.as_json(), indent=2) if o.json else as_text(found))
    return 0 if found.equal else 1


def _absorption(arguments: list[str]) -> int:
    from topk_ortho.inspect.absorption.options import AbsorptionOptions

    o = tyro.cli(AbsorptionOptions, args=arguments, prog="topk-ortho absorption")
    from topk_ortho.inspect.absorption.command import run_absorption

    _print(run_absorption(o))
    return 0


def _evaluate(arguments: list[str]) -> int:
    from topk_ortho.inspect.evaluate.options import check_suite, read

    o = read(arguments)
    check_suite(o, names_given(arguments))
    if o.suite == "saebench":
        return _saebench(o, arguments)
    from topk_ortho.inspect.evaluate.command import run_evaluation

    _print(run_evaluation(o, arguments))
    return 0


def _saebench(o: EvaluateOptions, arguments: list[str]) -> int:
    from topk_ortho import formats
    from topk_ortho.inspect.evaluate.command import check_out, write
    from topk_ortho.integrations.saebench import Suite, as_json, as_text, chosen, run_suite
    from topk_ortho.machine.hardware import choose_device

    evals, words = chosen(o.evals), names_given(arguments)
    check_out(o.out)
    stored = formats.read(o.sae, allow_pickle=o.allow_pickle)
    outcomes = run_suite(
        Suite(
            sae=replace(stored, model=o.model or stored.model, hook=o.hook or stored.hook),
            digest=formats.digest(o.sae),
            evals=evals,
            python=o.saebench_python,
            folder=o.saebench_folder,
            # a run's own text is what it was trained on, and SAEBench holds nothing out
            text=o.text if "text" in words else (),
            dataset=o.dataset if "dataset" in words else "",
            context=o.context,
            device=str(choose_device(o.device)),
            core_batches=o.core_batches,
            llm_batch_size=o.llm_batch_size,
        )
    )
    record = {"suite": "saebench", "sae": str(o.sae), **as_json(outcomes)}
    if o.out is not None:
        write(o.out, record)
    _print(json.dumps(record, indent=2) if o.json else as_text(outcomes))
    return 0 if any(outcome.status == "done" for outcome in outcomes.values()) else 1


def _print(text: str) -> None:
    """Print what may hold any character: what would act on a terminal, or what it cannot show, is
    spelled out."""
    text = "\n".join(printable(line) for line in text.split("\n"))
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def _ablate(arguments: list[str]) -> int:
    o, base, own, rest = _with_training(arguments, AblateOptions, "topk-ortho ablate")
    from topk_ortho.studies.ablation import Request, dry_run, run_ablation, stored_plan

    request = Request(
        base=base,
        out=o.out,
        vary=o.vary,
        grid=o.grid,
        seeds=o.seeds,
        without_arm=o.without_arm,
        with_arm=o.with_arm,
        jobs=o.jobs,
        shard=o.shard,
        tune=o.tune,
        retry_failed=o.retry_failed,
    )
    if o.launcher == "none" and (o.shards, o.cluster, o.cluster_option) != (1, "auto", ()):
        raise ConfigError(
            "--shards, --cluster or --cluster-option was given without a launcher; add --launcher "
            "submitit, or compute one part of several with --shard I/N."
        )
    if o.launcher != "none" and o.shard:
        raise ConfigError(
            f"--shard {o.shard} was given with --launcher {o.launcher}, which computes every shard "
            "itself; leave --shard out."
        )
    if o.dry_run:
        print(dry_run(request))
        return 0
    if o.launcher == "none":
        return run_ablation(request)
    from topk_ortho.studies.launch import for_shards, submit

    stored_plan(request)
    submitted = submit(
        [*for_shards(own), *rest],
        shards=o.shards,
        folder=o.out / "submitit",
        cluster=o.cluster,
        options=o.cluster_option,
    )
    print(submitted)
    return run_ablation(request) if submitted.cluster == "local" else 0


def _calibrate(arguments: list[str]) -> int:
    o, base, _, _ = _with_training(arguments, CalibrateOptions, "topk-ortho calibrate")
    from topk_ortho.studies.calibrate import run_calibration

    return run_calibration(
        base,
        coefficients=o.coefficients,
        l0=o.l0,
        seeds=o.seeds,
        out=o.out,
        jobs=o.jobs,
        retry_failed=o.retry_failed,
    )


def _with_training(
    arguments: list[str], options: type[Options], prog: str
) -> tuple[Options, TrainConfig, list[str], list[str]]:
    """A command's own options, the configuration of the others, and both as they were given."""
    own, rest = split(arguments, options)
    parsed = tyro.cli(options, args=own, prog=prog)
    # parse() of no argument at all is the quickstart, which is for `train` alone
    return parsed, parse(rest or ["--no-with-baseline"], prog=prog).settings, own, rest


def _repair(arguments: list[str]) -> int:
    from topk_ortho.inspect.repair.options import RepairOptions, split_repair

    own, rest = split_repair(arguments)
    positional = (tyro.conf.PositionalRequiredArgs,)
    o = tyro.cli(RepairOptions, args=own, prog="topk-ortho repair", config=positional)
    from topk_ortho.inspect.repair.command import words_for
    from topk_ortho.inspect.repair.repair import repair
    from topk_ortho.inspect.repair.text import as_text

    words, keep_l0 = words_for(o, rest)
    config = parse(words, prog="topk-ortho repair").settings
    done = repair(config, o.out, keep_l0=keep_l0)
    _print(json.dumps(done.as_json(), indent=2) if o.json else as_text(done))
    return 0


def _push(arguments: list[str]) -> int:
    o = tyro.cli(PushOptions, args=arguments, prog="topk-ortho push")
    from topk_ortho.integrations.hub import push

    print(f"pushed: {push(o.sae, o.repo, subfolder=o.subfolder, private=not o.public)}")
    return 0


def _pull(arguments: list[str]) -> int:
    o = tyro.cli(PullOptions, args=arguments, prog="topk-ortho pull")
    from topk_ortho.integrations.hub import pull

    layout = pull(o.repo, o.out, subfolder=o.subfolder, revision=o.revision)
    print(f"pulled: {o.out} ({layout})")
    return 0


def _report(arguments: list[str]) -> int:
    o = tyro.cli(ReportOptions, args=arguments, prog="topk-ortho report")
    from topk_ortho.constraint.history.figures import history_figures
    from topk_ortho.report.write import write_report

    print(f"report: {write_report(o.paths, o.out, history=history_figures)}")
    return 0


COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "train": (_train, "train one run (the same as python -m topk_ortho.train)"),
    "cache": (_cache, "write a language model's activations to files"),
    "ablate": (_ablate, "compare arms over paired seeds: grids, baselines, tuning"),
    "calibrate": (_calibrate, "whether your activations need the constraint, and which setting"),
    "doctor": (_doctor, "memory, disk and device that a run would need; takes train's options"),
    "recipes": (_recipes, "the runs of the source documents: list them, or train them all"),
    "results": (_results, "run all that docs/results.md states, and write its tables"),
    "absorption": (_absorption, "absorption between classes of tokens that a file names"),
    "evaluate": (_evaluate, "measure an SAE, ours or anyone's, in the figures of the field"),
    "pairs": (_pairs, "the most persistent pairs of a run, and what their features are"),
    "reproduce": (_reproduce, "train a run again and compare every figure bit for bit"),
    "repair": (_repair, "fine-tune a trained SAE under the constraint, before and after"),
    "push": (_push, "upload a trained SAE to the Hugging Face hub"),
    "pull": (_pull, "download a trained SAE from the Hugging Face hub"),
    "report": (_report, "draw runs, bars and ablations as one HTML page, PNG and SVG"),
    "bars": (_bars, "train the arms of a setting over seeds and check the bars"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS)) + 2
        lines = [f"  {name:<{width}}{help_}" for name, (_, help_) in COMMANDS.items()]
        print("usage: topk-ortho COMMAND [OPTIONS]\n\n" + "\n".join(lines))
        print("\n`topk-ortho COMMAND --help` shows a command's options.")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        near = nearest(name, list(COMMANDS))
        return fail(f"the command {name} was given, but there is none of that name{near}; "
                    "see topk-ortho --help.")  # fmt: skip
    return guarded(lambda: COMMANDS[name][0](rest))


if __name__ == "__main__":
    sys.exit(main())
