"""The dictionary: its options and their rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from topk_ortho.config.errors import require
from topk_ortho.config.option import (
    FEATURES,
    FROM_0,
    STEPS,
    Range,
    option,
    unless,
    when,
    whole,
)
from topk_ortho.config.registry import ARCHITECTURES, OneOf
from topk_ortho.config.settings import Settings


@dataclass(frozen=True, repr=False)
class SAEConfig(Settings):
    """The dictionary."""

    kind: Annotated[str, OneOf(ARCHITECTURES)] = "batch-topk"
    """Architecture: one of the package's, or a registered one."""
    d_sae: int = option(
        256,
        within=whole(2, 2**24, "a pair needs 2 features, and 2 to 16,777,216",
                     fix="give --sae.d-sae 2 or more"),
    )  # fmt: skip
    """Number of features."""
    k: float = 8.0
    """Mean L0; for `relu` and `jumprelu` the target to which their sparsity coefficient is
    adjusted."""
    aux_k: int = option(16, within=FEATURES)
    """Dead features that reconstruct the residual; 0 switches it off."""
    aux_coefficient: float = option(1 / 32, within=FROM_0, used=unless("sae.aux-k", 0))
    """Coefficient of that reconstruction's loss."""
    dead_after: int = option(50, within=STEPS)
    """A feature counts as dead after this many steps without firing."""
    prefixes: tuple[int, ...] = option((), used=when("sae.kind", "matryoshka"))
    """Matryoshka prefixes, the last one `d_sae`; by default 1/8, 3/8 and all of `d_sae`."""
    bandwidth: float = option(
        0.6,
        within=Range(5e-324, 2, "a share of the threshold above 0 and up to 2"),
        used=when("sae.kind", "jumprelu"),
    )
    """`jumprelu`: width of the window in which a threshold's gradient is estimated, as a share of
    the threshold."""
    bf16_prefilter: bool = False
    """On CPU, find the features that may fire by a bfloat16 product; float32 still decides. Faster
    on processors with bfloat16 products, slower on others. CUDA always uses autocast."""


def check_sae(c: SAEConfig) -> None:
    """Refuse a dictionary that contradicts itself.

    Raises:
        ConfigError: the settings contradict each other.
    """
    require(
        0 < c.k <= c.d_sae,
        f"--sae.k {c.k:g} was given",
        f"0 < k <= d_sae = {c.d_sae} was expected",
        "lower --sae.k or raise --sae.d-sae",
    )
    prefixes = list(c.prefixes)
    if prefixes:
        require(
            prefixes == sorted(set(prefixes)) and prefixes[0] >= 1 and prefixes[-1] == c.d_sae,
            f"--sae.prefixes {' '.join(map(str, prefixes))} was given",
            f"rising numbers that end in d_sae = {c.d_sae} were expected",
            "correct the list",
        )
    ARCHITECTURES[c.kind].check(c)
