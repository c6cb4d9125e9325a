"""What is written, and what is measured at the end."""

from __future__ import annotations

from collections.abc import Iterator

from topk_ortho.activations.synthetic import BLOCK_ROWS
from topk_ortho.machine.forecast.calibration import calibration
from topk_ortho.machine.forecast.component import END, Component, between, since
from topk_ortho.machine.forecast.sizes import DOUBLE, FLOAT, Sizes
from topk_ortho.training import evaluation

COUNTED = 2**21  # codes that metrics/reconstruction.py takes at once
TILE = 2048  # rows of the decoder that it takes at once


def end(s: Sizes) -> Iterator[Component]:
    """What is written, and what is measured at the end."""
    c, size = s.config, "--sae.d-sae"
    if s.gpu:
        yield Component("copy of the state", 3 * s.parameters, ("checkpoint",), size, "host")
    elif s.sparse:
        yield Component("encoder, row by row", s.matrix, ("checkpoint",), size, "host")
    if s.ranks_batch:
        yield from calibration(s)
    # Cloned, as bytes, and once more as one file.
    yield Component("weights to be written", 3 * s.parameters, ("export",), size, "host", blocks=5)
    if s.n_true:
        cells = s.n_true * c.sae.d_sae
        both = ("matching", "assigning")
        yield Component("decoder in float64", 2 * s.matrix, ("matching",), size, "host")
        yield Component("cosines with true features", DOUBLE * cells, both, size, "host")
        yield Component("the same, checked", (DOUBLE + 3) * cells, ("matching",), size, "host")
        yield Component("the same, assigned", DOUBLE * cells, ("assigning",), size, "host")
    yield from _evaluation(s)


def _evaluation(s: Sizes) -> Iterator[Component]:
    """Held-out rows in pieces; the codes of one piece stay until those of the next are there."""
    c, size = s.config, "--sae.d-sae"
    rows = min(c.eval_samples, evaluation.rows_at_once(c.sae.d_sae), BLOCK_ROWS)
    cells = rows * c.sae.d_sae
    # Pre-activations and zeros; or relu of them, and where they exceed the threshold as float32.
    copies = {"topk": 2, "relu": 1}.get(c.sae.kind, 3)
    encoding = ["encoding to measure"] + ["encoding on"] * (c.eval_samples > rows)
    for piece, moment in enumerate(encoding):
        now = (moment,)
        yield Component("a block of data", s.block, now, "", "host", blocks=4)
        yield Component("codes in the making", copies * FLOAT * cells, now, size, blocks=copies)
        if s.ranks_batch:
            yield Component("above the threshold", cells, now, size)
        until = "encoding on" if piece < len(encoding) - 1 else END[-1]
        yield Component("measured codes", FLOAT * cells, between(moment, until), size)
    yield Component("which codes are finite", (FLOAT + 3) * cells, ("measuring",), size, blocks=2)
    counted = min(cells, COUNTED)
    yield Component("codes in float64", (FLOAT + DOUBLE) * counted, ("counting",), "", blocks=2)
    yield from _geometry(s)


def _geometry(s: Sizes) -> Iterator[Component]:
    """Cosines of decoder rows; those of one tile stay until the next ones are there."""
    cells = min(TILE, s.config.sae.d_sae) ** 2
    yield Component("unit rows", s.matrix, since("geometry"), "--sae.d-sae")
    tiles = [between("geometry", "next cosines")]
    if s.config.sae.d_sae > TILE:
        tiles.append(between("next cosines", "geometry on"))
    for number, when in enumerate(tiles):
        now = when[-1:] if number else when[:1]
        yield Component("cosines of a tile", FLOAT * cells, when, "")
        yield Component("which is whose own", cells, now, "")
        yield Component("cosines in float64", DOUBLE * cells, now, "")
