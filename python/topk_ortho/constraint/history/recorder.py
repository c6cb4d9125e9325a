"""A recorder that feeds a history in the background: one thread and a bounded queue.

The queue waits when it is full and never drops, and one thread observes in order: what was observed
is the same on every run.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from topk_ortho.constraint.history.history import PairHistory
from topk_ortho.machine.spans import BACKGROUND, span, spanned

if TYPE_CHECKING:
    from topk_ortho.constraint.selection import PairSelection
    from topk_ortho.machine.transfer import Copy, Transfer


class HistoryRecorder:
    """Queues selections for a `PairHistory`.

    An error of the background thread is raised by the next call from the caller's thread.
    """

    def __init__(self, history: PairHistory, *, queue_size: int = 8):
        self._history = history
        self._queue: queue.Queue[tuple[int, Any, Any] | tuple[int, Copy] | None]
        self._queue = queue.Queue(queue_size)
        self._transfer: Transfer | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="pair-history", daemon=True)
        self._thread.start()

    @spanned("history")
    def record(self, step: int, i: Any, j: Any) -> None:
        """Hand one selection over; waits while the queue is full. Do not change `i`, `j` after.

        Raises:
            RuntimeError: the recorder was closed.
        """
        self._open(step)
        self._queue.put((step, i, j))

    @spanned("history")
    def record_selection(self, step: int, selection: PairSelection) -> None:
        """Hand over a selection; where it is in slots on a GPU, only the thread waits for its copy.

        Raises:
            RuntimeError: the recorder was closed.
        """
        slots = selection.slots
        if slots is None:
            i, j = selection.distinct()
            self.record(step, i.cpu(), j.cpu())
            return
        from topk_ortho.machine.transfer import Transfer  # torch is not imported for the others

        self._open(step)
        if self._transfer is None:
            self._transfer = Transfer()
        self._queue.put((step, self._transfer.start(slots.i, slots.j, slots.score)))

    @spanned("history")
    def settled(self) -> PairHistory:
        """Returns the history with everything recorded so far observed."""
        self._queue.join()
        self._raise()
        return self._history

    def ema(self, i: Any, j: Any) -> NDArray[Any]:
        """Returns the moving averages as of the previous observation, whatever the timing."""
        return self.settled().ema(i, j)

    def close(self) -> PairHistory:
        """Observe what is queued, end the thread, and return the history."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._raise()
        return self._history

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if self._error is None:
                    with span(BACKGROUND):
                        self._history.observe(item[0], *_pairs(item))
            except BaseException as error:
                self._error = error
            finally:
                self._queue.task_done()
        self._queue.task_done()

    def _open(self, step: int) -> None:
        self._raise()
        if not self._thread.is_alive():
            raise RuntimeError(
                f"the selection of step {step} was given to a recorder that is closed, but an open "
                "one was expected; make a new HistoryRecorder of the history."
            )

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


def _pairs(item: tuple[int, Any, Any] | tuple[int, Copy]) -> tuple[Any, Any]:
    if len(item) == 3:
        return item[1], item[2]
    i, j, score = item[1].result()
    held = score > 0
    return i[held], j[held]
