"""Positions of a context that are no rows of activations: BOS always, others where asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class LeaveOut:
    """Positions that are neither trained nor measured on.

    Attributes:
        bos: the token that begins contexts and separates documents.
        special: ids of further tokens.
        positions: so many first positions of every context, BOS among them.
    """

    bos: int
    special: tuple[int, ...] = ()
    positions: int = 0

    def reasons(self, tokens: Tensor, spoken: Tensor | None = None) -> dict[str, Tensor]:
        """Returns by reason `[n, context]` bool, positions that are left out; each has one reason.

        Args:
            tokens: `[n, context]` int64.
            spoken: `[n, context]` bool, said by the roles that are trained on; None for all.
        """
        found = {"bos": tokens == self.bos}
        if self.special:
            found["special"] = torch.isin(tokens, torch.tensor(self.special))
        if self.positions:
            found["positions"] = (torch.arange(tokens.shape[1]) < self.positions).expand_as(tokens)
        if spoken is not None:
            found["roles"] = ~spoken
        free = torch.ones_like(tokens, dtype=torch.bool)
        for reason, where in found.items():
            found[reason], free = where & free, free & ~where
        return found

    def kept(self, tokens: Tensor, spoken: Tensor | None = None) -> Tensor:
        """Returns `[n, context]` bool, the positions that are rows."""
        reasons = self.reasons(tokens, spoken).values()
        return ~torch.stack(list(reasons)).any(0)


def special_tokens(tokenizer: Any, *, bos: int) -> tuple[int, ...]:
    """Returns the ids that a tokenizer calls special, padding among them, but BOS."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    ids = {int(i) for i, token in added.items() if token.special}
    ids |= {int(i) for i in tokenizer.all_special_ids}
    return tuple(sorted(ids - {bos}))


def counted(reasons: Sequence[dict[str, Tensor]]) -> dict[str, int]:
    """Returns by reason the number of positions that were left out, of several contexts."""
    names = reasons[0] if reasons else {}
    return {name: sum(int(found[name].sum()) for found in reasons) for name in names}
