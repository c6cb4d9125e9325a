"""What process 0 does by itself while the others wait: folders, checkpoints, measurements.

It may take longer than any timeout, so a thread of process 0 counts in the store that all share,
and the others wait as long as it does. Its answer, or its error, reaches all of them as JSON.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from topk_ortho.config import ConfigError
from topk_ortho.distributed.world import PeerError, World
from topk_ortho.machine.interrupt import Interrupted

BEAT = 1.0
"""Seconds between two counts."""
LOOK = 0.02
"""Seconds between the first two looks of one that waits; later ones come at most every BEAT."""


def by_first(world: World, what: str, work: Callable[[], Any]) -> Any:
    """Returns what `work`, done by process 0 alone, returned, on every process.

    Args:
        world: the processes; with one of them this is `work()`.
        what: what the others wait for, in words.
        work: returns something that JSON can hold, None included.

    Raises:
        PeerError: process 0 failed in it, or does not count any more. On process 0 itself
            whatever `work` raised; ConfigError and Interrupted reach the others as they are.
    """
    if not world.shared:
        return work()
    key = f"first/{world.sections}"
    world.sections += 1
    if world.first:
        return _do(world, key, work)
    with world.waiting(what):
        answer = _await(world, key, what)
    if "error" not in answer:
        return answer["value"]
    kind, said = answer["error"]
    if kind == "ConfigError":
        raise ConfigError(said)
    if kind == "Interrupted":
        raise Interrupted(said, number=answer["number"])
    raise PeerError(
        f"process {world.rank} of {world.size}, step {world.step}: process 0 failed in {what} "
        f"({kind}: {said}), so all stopped."
    )


def _do(world: World, key: str, work: Callable[[], Any]) -> Any:
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(world, key, over), daemon=True)
    beating.start()
    answer: dict[str, Any] = {}
    try:
        value = work()
        answer["value"] = value
        return value
    except BaseException as error:
        kind = "ConfigError" if isinstance(error, ConfigError) else type(error).__name__
        answer |= {"error": [kind, str(error)], "number": getattr(error, "number", 0)}
        raise
    finally:
        over.set()
        beating.join()
        with world.waiting("the others"):
            world.store.set(f"{key}/done", json.dumps(answer))


def _beat(world: World, key: str, over: threading.Event) -> None:
    try:
        while not over.wait(BEAT):
            world.store.add(f"{key}/beat", 1)
    except RuntimeError:  # the store is gone, and with it the others
        return


def _await(world: World, key: str, what: str) -> dict[str, Any]:
    store, pause = world.store, LOOK
    beats, heard, started = 0, time.monotonic(), time.monotonic()
    while not store.check([f"{key}/done"]):
        time.sleep(pause)
        pause = min(BEAT, pause * 1.2)
        now = store.add(f"{key}/beat", 0)
        if now != beats:
            beats, heard = now, time.monotonic()
        if time.monotonic() - heard > world.timeout:
            raise world.lost(what, time.monotonic() - started, "process 0 is silent")
    return json.loads(store.get(f"{key}/done"))
