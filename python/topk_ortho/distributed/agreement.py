"""Whether all processes hold the same: checksums of weights, firing rates and pairs.

Replicas that part, by a faulty memory, another library or a bug, would train on unnoticed. The
checksums travel with the numbers that a step exchanges anyway; only taking them costs, one pass
over the weights, so it is done every `EVERY` steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

EVERY = 100
"""Steps between two comparisons."""
PIECE = 2**20
"""Words that are taken at once."""
NAMES = ("weights", "firing rates", "pairs")


class DisagreementError(RuntimeError):
    """Processes that should be replicas of each other hold different numbers."""


def checksum(*tensors: Tensor) -> int:
    """Returns a number that changes with the bits of tensors, and with the place of a value."""
    total = 0
    for tensor in tensors:
        flat = tensor.detach().contiguous().flatten()
        words = flat.view(torch.int32) if flat.dtype.itemsize % 4 == 0 else flat.view(torch.uint8)
        for part in words.split(PIECE):
            place = torch.arange(1, 2 * len(part), 2, device=part.device)
            sums = torch.stack([part.sum(), (part * place).sum()]).tolist()
            total = (total * 1_000_003 + sums[0] * 31 + sums[1]) % 2**63
    return total


def check_agreement(step: int, found: Sequence[Sequence[int]]) -> None:
    """Refuse checksums that differ.

    Args:
        step: the step they are of.
        found: of each process, its checksums in the order of `NAMES`.

    Raises:
        DisagreementError: it names what differs, and the ranks that differ from most others.
    """
    for at, name in enumerate(NAMES):
        values = [checksums[at] for checksums in found]
        usual, count = Counter(values).most_common(1)[0]
        if count < len(values):
            odd = [rank for rank, value in enumerate(values) if value != usual]
            if 2 * count == len(values):
                usual = values[0]
                odd = [rank for rank, value in enumerate(values) if value != usual]
            raise DisagreementError(
                f"step {step}: the {name} of process {', '.join(map(str, odd))} differ from those "
                f"of the other {len(values) - len(odd)}, but all were expected to be the same bit "
                "for bit; resume from the last checkpoint, and check that all run the same version "
                "on the same kind of machine."
            )
