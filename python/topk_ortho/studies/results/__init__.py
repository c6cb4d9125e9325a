"""Everything that `docs/results.md` states: what is run (`parts.py`), and how it gets there."""

from topk_ortho.studies.results.command import run_results
from topk_ortho.studies.results.parts import Material, parts

__all__ = ["Material", "parts", "run_results"]
