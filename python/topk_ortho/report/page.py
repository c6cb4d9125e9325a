"""The page: sections in a fixed order, those without data left out, in one self-contained file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources

from topk_ortho.metrics.health import MIN_CE_SCORE, MIN_EXPLAINED_VARIANCE
from topk_ortho.report import drawings, features, stability, tables
from topk_ortho.report.arms import Comparison
from topk_ortho.report.canvas import Chart, Drawing
from topk_ortho.report.compare import compare
from topk_ortho.report.drawings import TAU, Sketch
from topk_ortho.report.features import FeatureTable
from topk_ortho.report.findings import findings
from topk_ortho.report.stability import Reader
from topk_ortho.report.tables import Table
from topk_ortho.report.typeset import plain
from topk_ortho.statistics import MARGIN_EXPLAINED_VARIANCE

GENERATOR = "topk-ortho report"
_DIFFERENCES = ("excess", "explained_variance", "f1_child")


@dataclass(frozen=True)
class Block:
    """The part of a section about one comparison."""

    heading: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()
    features: Sequence[FeatureTable] = ()

    @property
    def empty(self) -> bool:
        return not (self.paragraphs or self.tables or self.drawings or self.features)


@dataclass(frozen=True)
class Section:
    """A heading, a line about what is to be seen, and a block for each comparison."""

    name: str
    title: str
    intro: str
    blocks: Sequence[Block]

    def without_drawings(self) -> Section:
        """The section with its words and tables alone; it says where its drawings are."""
        blocks = [replace(block, drawings=(), features=()) for block in self.blocks]
        where = "The drawings are in plots/ beside this page, which they would make too large."
        if any(block.features for block in self.blocks):
            where += " The features of a run are in its features.json."
        return replace(self, intro=where, blocks=[b for b in blocks if not b.empty])


@dataclass(frozen=True)
class _Material:
    """A comparison with everything that is said and drawn of it."""

    comparison: Comparison
    sketch: Sketch
    histories: Mapping[str, list[stability.Remembered]] = field(default_factory=dict)


def sections(comparisons: Sequence[Comparison], *, history: Reader) -> list[Section]:
    """Every section that has data, in the order of the page."""
    materials = [_material(c, n, history) for n, c in enumerate(comparisons, start=1)]
    found = []
    for name, title, intro, make in _PLAN:
        blocks = [make(material) for material in materials]
        blocks = [block for block in blocks if not block.empty]
        if blocks:
            found.append(Section(name, title, intro, blocks))
    return found


def render(found: Sequence[Section], *, title: str) -> str:
    """The page as HTML; every string is escaped."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = plain
    here = resources.files("topk_ortho.report")
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    style = (here / "page.css").read_text(encoding="utf-8")
    script = (here / "page.js").read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    several = max((len(section.blocks) for section in found), default=0) > 1
    return template.render(
        title=title, sections=found, style=style, several=several, generator=GENERATOR,
        script=script, script_hash=f"sha256-{digest}",
    )  # fmt: skip


def _material(comparison: Comparison, n: int, history: Reader) -> _Material:
    prefix = "" if n == 1 else f"c{n}_"
    sketch = Sketch.of(comparison, compare(comparison), prefix=prefix)
    histories = {
        arm.name: found
        for arm in sketch.constrained
        if (found := stability.remembered(arm, history))
    }
    return _Material(comparison, sketch, histories)


def _found(material: _Material) -> Block:
    return _block(material, findings(material.comparison, material.sketch.rows))


def _run(material: _Material) -> Block:
    made = [tables.what_was_run(material.comparison), tables.not_finished(material.comparison)]
    return _block(material, made=made)


def _health(material: _Material) -> Block:
    return _block(material, made=[tables.health_table(material.comparison)])


def _table(material: _Material) -> Block:
    return _block(material, made=[tables.comparison_rows(material.sketch.rows)])


def _features(material: _Material) -> Block:
    block = _block(material, drawn=features.drawings(material.sketch))
    return replace(block, features=features.tables(material.comparison))


def _tau(material: _Material) -> Block:
    families = drawings.families(material.sketch, TAU)
    arms = [arm for family in families for arm in family]
    return _block(material, drawn=drawings.effects(material.sketch, arms, _DIFFERENCES, "tau"))


def _stability(material: _Material) -> Block:
    return _block(
        material,
        made=[tables.persistent(material.histories)],
        drawn=stability.drawings(material.sketch, material.histories),
    )


def _tradeoffs(sketch: Sketch) -> list[Chart]:
    return [
        *drawings.tradeoffs(sketch, "explained_variance"),
        *drawings.tradeoffs(sketch, "l0"),
    ]


def _drawn(make: Callable[[Sketch], list[Chart]]) -> Callable[[_Material], Block]:
    return lambda material: _block(material, drawn=make(material.sketch))


def _block(
    material: _Material,
    paragraphs: Sequence[str] = (),
    *,
    made: Sequence[Table | None] = (),
    drawn: Sequence[Chart] = (),
) -> Block:
    there = [table for table in made if table is not None]
    return Block(material.comparison.title, paragraphs, there, [chart.draw() for chart in drawn])


_READING = (
    "The reduction in excess absorption, beside what it cost. Below each mean: the difference to "
    "none, paired by seed, with its 95 % interval (Student's t); better, worse and p are corrected "
    "for several arms (Holm). No detectable change is not the same as no loss; explained variance "
    f"is “kept” where it is shown to lose less than {MARGIN_EXPLAINED_VARIANCE:g}."
)

_Plan = tuple[str, str, str, Callable[[_Material], Block]]
_PLAN: tuple[_Plan, ...] = (
    ("found", "What was found", "", _found),
    ("table", "Comparison", _READING, _table),
    ("tradeoffs", "Absorption against explained variance and L0",
     "Less absorption at more explained variance is better; arms can be compared where they stand "
     "above the same L0. Faint dots are seeds, bars 95 % intervals of the mean.",
     _drawn(_tradeoffs)),
    ("health", "Health of each SAE",
     f"Invalid: explained variance below {MIN_EXPLAINED_VARIANCE} or CE score below {MIN_CE_SCORE}."
     " An SAE that hardly trained scores near 0 on absorption, so its absorption is unavailable.",
     _health),
    ("features", "Features",
     "On held-out activations, at the end of training. Rates are shares of activations, cosines "
     "are of decoder rows, a feature that never fired is dead. Of each arm's first seed.",
     _features),
    ("tau", "τ policies", "Differences to none, paired by seed, with 95 % intervals.", _tau),
    ("fraction", "Share of pairs selected", "Means with 95 % intervals.",
     _drawn(drawings.fractions)),
    ("schedule", "Schedules of the selection", "Means over seeds, the range shaded.",
     _drawn(drawings.schedules)),
    ("stability", "Stability of the selection",
     "How much of a selection comes back in the next, and how long a pair stays.", _stability),
    ("final", "At the end of training", "Means, with 95 % intervals where there are several seeds.",
     _drawn(drawings.final)),
    ("held-out", "On held-out activations during training",
     "On fewer of them than at the end. Means over seeds, the range shaded.",
     _drawn(drawings.held_out)),
    ("run", "What was run", "", _run),
    ("training", "Training", "Of each logged batch. Means over seeds, the range shaded.",
     _drawn(drawings.training)),
    ("memory", "Memory",
     "Solid: allocated, or resident on CPU. Dashed: reserved, or the peak on CPU, where runs "
     "of one process share it.", _drawn(drawings.memory)),
)  # fmt: skip
