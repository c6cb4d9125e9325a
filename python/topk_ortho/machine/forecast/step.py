"""What the SAE and a step of its training hold, the pairs left out."""

from __future__ import annotations

from collections.abc import Iterator

from topk_ortho.machine.forecast.component import Component, between, since
from topk_ortho.machine.forecast.sizes import (
    ABOVE_BAR,
    ENTRY,
    MASK,
    PRODUCTS,
    RELUS,
    RUNNING,
    SORTED_ENTRY,
    Sizes,
)


def model(s: Sizes) -> Iterator[Component]:
    size, building = "--sae.d-sae", ("building the SAE",)
    yield Component("decoder in the making", s.matrix, building, size, "host")
    yield Component("weights", s.parameters, since("building the SAE"), size, blocks=2)
    yield Component("buffers of matrix products", PRODUCTS, since("encoding"), "", "host",
                    born="encoding")  # fmt: skip
    running = RUNNING * s.config.sae.d_sae
    yield Component("running figures", running, since("building the SAE"), size)


def encoding(s: Sizes) -> Iterator[Component]:
    """Pre-activations and which of them stay; alive until the step ends."""
    where, kind = "--batch-size, --sae.d-sae", s.config.sae.kind
    lasting, encoding = between("encoding", "checkpoint"), ("encoding",)
    saved = encoding if s.sparse else between("encoding", "backward pass")
    yield Component("centred batch", s.rows, saved, "--batch-size")
    yield Component("pre-activations", s.dense, lasting, where)
    if s.screened:
        size = s.matrix // 2 + s.rows // 2
        yield Component("encoder in bfloat16", size, encoding, "--sae.bf16-prefilter", blocks=2)
    if s.ranks_batch and not s.gpu:
        above = MASK * s.cells + ABOVE_BAR * s.entries
        yield Component("top-k over the batch", above, encoding, where, blocks=3)
    if s.sparse:
        yield Component("sorting of active entries", SORTED_ENTRY * s.entries, encoding, "--sae.k",
                        blocks=4)  # fmt: skip
    else:
        if kind not in RELUS and not s.ranks_batch:
            yield Component("empty codes", s.dense, encoding, where)
        yield Component("dense codes", s.dense, lasting, where)
    yield Component("active entries", ENTRY * s.entries, lasting, "--sae.k", blocks=3)


def decoding(s: Sizes) -> Iterator[Component]:
    """Reconstructions and their errors; the square of one at a time."""
    lasting, n = between("decoding", "checkpoint"), len(s.prefixes)
    if n > 1 and s.sparse:
        inside = round(ENTRY * s.entries * sum(s.prefixes))
        yield Component("entries of the prefixes", inside, lasting, "--sae.k", blocks=3 * n)
    if n > 1 and not s.sparse:
        yield Component("codes of a prefix", s.dense, ("decoding",), "--sae.prefixes")
    graph = between("decoding", "backward pass")
    yield Component("reconstructions", n * s.rows, lasting, "--batch-size", blocks=n)
    yield Component("errors", n * s.rows, graph, "--batch-size", blocks=n)
    yield Component("squared error", s.rows, ("decoding",), "--batch-size")
    yield Component("error and its square", 2 * s.rows, ("log line",), "--batch-size", blocks=2)


def dead(s: Sizes) -> Iterator[Component]:
    """Aux-k once features have died."""
    where, lasting = "--sae.aux-k, --batch-size", between("aux-k", "backward pass")
    codes, weights = round(s.dead * s.dense), round(s.dead * s.matrix)
    copies = 2 if s.sparse else 1  # the dense path has their pre-activations already
    yield Component("aux-k, pre-activations", codes, ("aux-k",), where)
    yield Component("aux-k, empty codes", codes, ("aux-k",), where)
    # On an H100 they were gone before the gradients of the other codes came: peaks of four runs.
    kept = between("aux-k", "gradient of the loss") if s.gpu else lasting
    yield Component("aux-k, codes", codes, kept, where)
    yield Component("aux-k, weights", copies * weights, lasting, where, blocks=copies)
    if not s.gpu:
        yield Component("aux-k, gradients of codes", codes, ("backward pass",), where)
    yield Component("aux-k, gradients of weights", copies * weights, ("backward pass",), where,
                    blocks=copies)  # fmt: skip


def backward(s: Sizes) -> Iterator[Component]:
    """Gradients of what the graph holds, then of the weights; Adam's step."""
    size, where = "--sae.d-sae", "--batch-size, --sae.d-sae"
    error = ("gradient of the loss",)
    yield Component("gradients of the errors", 3 * s.rows, error, "--batch-size", blocks=3)
    yield Component("gradient of the reconstruction", s.rows, ("backward pass",), "--batch-size")
    if s.sparse:
        yield Component("entries by feature", SORTED_ENTRY * s.entries, ("backward pass",),
                        "--sae.k", blocks=5)  # fmt: skip
    else:
        copies = 1 if s.config.sae.kind == "topk" else 2
        yield Component("gradients of codes", copies * s.dense, ("backward pass",), where,
                        blocks=copies)  # fmt: skip
    yield Component("gradient along the decoder", s.matrix, ("optimiser",), size)
    alive = tuple(m for m in since("refilling the buffer") if m not in error)
    yield Component("gradients", s.parameters, alive, size, born="backward pass", blocks=2)
    yield Component("Adam's moments", 2 * s.parameters, since("refilling the buffer"), size,
                    born="optimiser", blocks=4)  # fmt: skip
