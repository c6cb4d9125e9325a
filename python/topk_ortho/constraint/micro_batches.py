"""The codes of a step that comes in micro-batches."""

from __future__ import annotations

from topk_ortho.sparse.codes import Codes


class MicroBatches:
    """Gathers the codes of all micro-batches of a step.

    Args:
        number: micro-batches per step.
    """

    def __init__(self, number: int):
        self.number = number
        self._pieces: list[Codes] = []
        self._step = -1

    def gather(self, codes: Codes, step: int) -> Codes | None:
        """Returns the codes of all micro-batches of a step; None while more are to come.

        Raises:
            ValueError: the step before had fewer.
        """
        if self.number == 1:
            return codes
        if self._pieces and step != self._step:
            raise ValueError(
                f"step {step} began after {len(self._pieces)} of {self.number} micro-batches of "
                f"step {self._step}; pass the optimiser's step, the same for all its "
                "micro-batches, or correct micro_batches."
            )
        self._step = step
        self._pieces.append(codes)
        if len(self._pieces) < self.number:
            return None
        pieces, self._pieces = self._pieces, []
        return Codes.concatenate(pieces)

    def check_whole(self) -> None:
        """Refuse to look at a step whose micro-batches are not all there.

        Raises:
            ValueError: some are to come.
        """
        if self._pieces:
            raise ValueError(
                f"the state was asked for after {len(self._pieces)} of {self.number} "
                f"micro-batches of step {self._step}, but only whole steps can be stored; "
                "ask for it after the optimiser's step."
            )
