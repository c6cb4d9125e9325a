"""The memory of a pass through any SAE; each architecture adds its own part (`SAE.memory`)."""

from __future__ import annotations

from collections.abc import Iterator

from topk_ortho.machine.forecast import FLOAT, INT, Component, Shapes, between, since

ENTRY = 2 * INT + FLOAT  # row, column and value
SORTED_ENTRY = 3 * INT + 2 * FLOAT  # the same by feature, their order, and a gradient
LASTING = between("encoding", "checkpoint")


def passes(s: Shapes) -> Iterator[Component]:
    """Yields weights, a training pass and its way back."""
    where, size, l0 = "--batch-size, --sae.d-sae", "--sae.d-sae", "--sae.k"
    encoding, backward = ("encoding",), ("backward pass",)
    graph = between("encoding", "backward pass")
    yield Component("weights", s.parameters, since("filling the buffer"), size)
    yield Component("centred batch", s.rows, encoding if s.sparse else graph, "--batch-size")
    yield Component("pre-activations", s.dense, LASTING, where)
    yield Component("active entries", ENTRY * s.entries, LASTING, l0)
    if s.prefiltered:
        narrow = (s.encoder + s.rows) // 2
        yield Component("encoder in bfloat16", narrow, encoding, "--sae.bf16-prefilter")
    if s.sparse:
        sorting = SORTED_ENTRY * s.entries
        yield Component("active entries by feature", sorting, (*encoding, *backward), l0)
    else:
        yield Component("dense codes", s.dense, LASTING, where)
        yield Component("gradients of codes", 2 * s.dense, backward, where)
    decoded = between("decoding", "checkpoint")
    yield Component("reconstructions", s.rows_out, decoded, "--batch-size")
