"""The published SAEBench (PyPI `sae-bench`) on one of our SAEs, in its own environment."""

from topk_ortho.integrations.saebench.results import Outcome, as_json, as_text
from topk_ortho.integrations.saebench.suite import EVALS, Suite, chosen, run_suite

__all__ = ["EVALS", "Outcome", "Suite", "as_json", "as_text", "chosen", "run_suite"]
