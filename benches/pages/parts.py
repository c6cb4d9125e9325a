"""The parts of the results page, most of them ablations: what each asks and what it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from settings import setting

from topk_ortho.config import TrainConfig
from topk_ortho.studies.ablation import Request
from topk_ortho.studies.recipes import RECIPES

CONTROLS = ("rate-matched-random", "ortsae")
NESTED = ("matryoshka",)
BOTH = "matryoshka+constraint"
FRESH = 10
PLANTED = 5
"""Fresh seeds of the main comparisons."""
REST = 3
"""Of everything else."""


@dataclass(frozen=True)
class Material:
    """The language model that some parts need."""

    model: str
    text: tuple[Path, ...]
    hook: str = "blocks.3.hook_resid_post"


@dataclass(frozen=True)
class Part:
    """One ablation of the page.

    Attributes:
        name: of its folder and of its marks on the page.
        question: what it answers, in a few words.
        base: the arm that is varied.
        seeds: how many, from 400 on.
    """

    name: str
    question: str
    base: Callable[[Material], TrainConfig]
    seeds: int
    grid: str = ""
    vary: tuple[str, ...] = ()
    tune: bool = False
    with_arm: tuple[str, ...] = ()
    without_arm: tuple[str, ...] = ()

    def request(self, material: Material, *, root: Path, jobs: int) -> Request:
        """The ablation as `topk-ortho ablate` would ask for it."""
        return Request(
            base=self.base(material),
            out=root / self.name,
            vary=self.vary,
            grid=self.grid,
            seeds=(self.seeds,),
            without_arm=self.without_arm,
            with_arm=self.with_arm,
            jobs=jobs,
            tune=self.tune,
        )


def _planted(name: str) -> Callable[[Material], TrainConfig]:
    return lambda m: setting(name, model=m.model, text=m.text, hook=m.hook)


def _forest(kind: str = "batch-topk") -> Callable[[Material], TrainConfig]:
    def base(material: Material) -> TrainConfig:
        plain = setting("forest-240", hook="")
        return replace(plain, sae=replace(plain.sae, kind=kind))

    return base


def _plain_language(m: Material) -> TrainConfig:
    planted = setting("planted-12", model=m.model, text=m.text, hook=m.hook)
    plain = TrainConfig()
    return replace(planted, plant=plain.plant, sae=replace(plain.sae, d_sae=1024, k=16.0))


TOPK = "forest-240-topk"
_PARTS: tuple[Part, ...] = (
    Part("planted-6", "known hierarchies planted in a real model's activations, L0 too low",
         _planted("planted-6"), PLANTED, tune=True, with_arm=("random", BOTH)),
    Part("planted-12", "the same at twice the L0",
         _planted("planted-12"), FRESH, tune=True, with_arm=("random", BOTH)),
    Part("forest-240", "the default synthetic data, BatchTopK", _forest(), FRESH, tune=True,
         with_arm=("random", "ortsae-child-only", BOTH)),
    Part("rivals", "the nearest published losses, on the same data", _forest(), PLANTED,
         tune=True, with_arm=("c2r", "c2r-child-only"),
         without_arm=(*NESTED, "rate-matched-random")),
    Part(TOPK, "the same with TopK", _forest("topk"), FRESH, tune=True, with_arm=("random",),
         without_arm=NESTED),
    Part("forest-240-relu", "the same with ReLU and L1", _forest("relu"), FRESH, tune=True,
         with_arm=("random",), without_arm=NESTED),
    Part("l0", "L0 from half to twice the true one", _forest(), REST, grid="l0",
         without_arm=(*CONTROLS, *NESTED)),
    Part("cosine", "parents and children whose true directions overlap", _forest(), REST,
         grid="cosine", without_arm=(*CONTROLS, *NESTED)),
    Part("recipes", "every run of the source experiment, where there is something to cure",
         _forest(), REST, with_arm=tuple(name for name in RECIPES if name != "baseline"),
         without_arm=(*CONTROLS, *NESTED)),
    Part("language-model", "a real language model, nothing planted", _plain_language, REST),
    Part("efficiency", "what coefficients remove and cost", _forest(), FRESH, grid="efficiency",
         without_arm=(*CONTROLS, *NESTED)),
    Part("threshold", "the overlap that is let pass", _forest(), FRESH,
         vary=("penalty.threshold=0.0,0.05,0.1,0.2",), without_arm=(*CONTROLS, *NESTED)),
    Part("tau", "fixed against adaptive thresholds", _forest(), REST, grid="tau",
         without_arm=(*CONTROLS, *NESTED)),
    Part("per-feature", "how many pairs for each feature", _forest(), FRESH,
         vary=("pairs.per-feature=1.0,2.5,5.0,10.0",), without_arm=(*CONTROLS, *NESTED)),
    Part("fraction", "how many pairs, as a share of all", _forest(), REST, grid="fraction",
         without_arm=(*CONTROLS, *NESTED)),
    Part("schedule", "a share of pairs that grows", _forest(), REST, grid="schedule",
         without_arm=(*CONTROLS, *NESTED)),
    Part("gradient", "which row of a pair moves", _forest(), REST, grid="gradient",
         without_arm=(*CONTROLS, *NESTED)),
    Part("criteria", "which score chooses the pairs", _forest(), REST, grid="criteria",
         without_arm=(*CONTROLS, *NESTED)),
    Part("stability", "pairs weighed by their history, and chosen less often", _forest(), REST,
         grid="stability", without_arm=(*CONTROLS, *NESTED)),
)  # fmt: skip


def parts() -> dict[str, Part]:
    """Every ablation of the page by name, in its order."""
    return {part.name: part for part in _PARTS}
