"""Parts of a cohort: shards of array jobs, and the ranks of torchrun."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from modfill.errors import ModfillError
from modfill.process import WAITING

__all__ = ["Meeting", "Part", "Share"]

_LOG = logging.getLogger("modfill")
_T = TypeVar("_T")
TIMEOUT = "MODFILL_RANK_TIMEOUT"
"""Environment variable: seconds without a heartbeat after which a rank counts as absent."""

_TIMEOUT = 300.0
_BEATS = 10  # heartbeats within the timeout
_POLL = 0.2  # seconds between two checks by the main thread, which signals reach
_LEAVE_TIMEOUT = 10.0  # seconds for which the rank that holds the store lets the others read it


@dataclass(frozen=True)
class Part:
    """One of several equal parts.

    Attributes:
        number: from 1 to `count`.
        count: how many there are.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read `3/16`, the third of sixteen.

        Raises:
            ModfillError: it is none of 1/N to N/N.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        part = cls(int(match[1]), int(match[2])) if match else cls(0, 0)
        if not 1 <= part.number <= part.count:
            raise ModfillError(f"shard must be one of 1/N to N/N, got '{text}'; e.g. 3/16 for the third of 16")
        return part

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def of_rank(cls) -> Part:
        """This process's part under torchrun; the whole without.

        Raises:
            ModfillError: torchrun's variables are not all there; one rank needs no address.
        """
        given = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE")]
        if given == [None, None]:
            return cls(1, 1)
        rank, ranks = (int(text) if text and text.isdecimal() else -1 for text in given)
        if not 0 <= rank < ranks:
            raise ModfillError("RANK and WORLD_SIZE must be as torchrun sets them, got "
                               f"{given[0]} and {given[1]}; unset both, or use shard='K/N'")  # fmt: skip
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
        if ranks > 1 and missing:
            raise ModfillError(f"{' and '.join(missing)} must be set for {ranks} ranks, got none; start them with "
                               "torchrun, or use shard='K/N'")  # fmt: skip
        return cls(rank + 1, ranks)

    def of(self, items: Sequence[_T]) -> Sequence[_T]:
        """Every `count`-th item, beginning with the `number`-th: the parts of a cohort are equal and disjoint."""
        return items[self.number - 1 :: self.count]


@dataclass(frozen=True)
class Share:
    """This process's share of a cohort: a shard of an array job, and the part of it that a rank of torchrun takes.

    Attributes:
        shard: of the cohort.
        rank: of the shard.
    """

    shard: Part
    rank: Part

    @classmethod
    def of_shard(cls, shard: str) -> Share:
        """The share of this process in a shard such as `3/16`; raises ModfillError as `Part.parse`, `Part.of_rank`."""
        return cls(Part.parse(shard), Part.of_rank())

    @property
    def part(self) -> Part:
        """The share as one part of the whole cohort."""
        shard, rank = self.shard, self.rank
        return Part(shard.number + shard.count * (rank.number - 1), shard.count * rank.count)

    @property
    def label(self) -> str:
        """The name of this share in messages; empty for a whole cohort."""
        shard = f"shard {self.shard}" if self.shard.count > 1 else ""
        return f"{shard} rank {self.rank}".strip() if self.rank.count > 1 else shard

    def of(self, items: Sequence[_T]) -> Sequence[_T]:
        """This process's items."""
        return self.part.of(items)


class Meeting:
    """Makes ranks wait for each other at the end: torchrun ends all of them as soon as one ends with an error.

    From the beginning each rank sends heartbeats, so that one that works for hours differs from one that is absent. A
    daemon thread sends them and does all the waiting, because signals do not interrupt a wait inside torch.

    Args:
        rank: this process's part, as `Part.of_rank` gives it. With one rank there is nothing to wait for.

    Raises:
        ModfillError: the time limit in the environment is not a number of seconds.
    """

    def __init__(self, rank: Part):
        self._rank = rank
        self._seconds = _timeout()
        self._here, self._over = threading.Event(), threading.Event()
        self._heartbeats: dict[int, tuple[int, float]] = {}  # by rank: the last one, and its time
        self._unfinished = set(range(1, rank.count + 1))
        if rank.count > 1:
            threading.Thread(target=self._attend, name=WAITING, daemon=True).start()

    def wait(self) -> None:
        """Wait until every rank is here.

        Raises:
            ModfillError: one sent no heartbeat for the time limit.
        """
        if self._rank.count == 1:
            return
        self._here.set()
        began, logged = time.monotonic(), False
        while not self._over.wait(_POLL):
            now = time.monotonic()
            waited_for = sorted(self._unfinished - {self._rank.number})
            if not logged and now - began > 10 * _POLL:
                _LOG.warning("waiting for %s of %d", _listed(waited_for), self._rank.count)
                logged = True
            absent = [n for n in waited_for if now - max(began, self._heartbeats.get(n, (0, began))[1]) > self._seconds]
            if absent:
                raise ModfillError(f"all {self._rank.count} ranks must take part, got no sign of {_listed(absent)} for "
                                   f"{self._seconds:g} s; start all of them, or use shard='K/N'")  # fmt: skip

    def _attend(self) -> None:
        """Set this rank's heartbeat and read the others', until all are done; runs in a thread of its own."""
        count, own, mine = self._rank.count, self._rank.number, 0
        pause = min(1.0, self._seconds / _BEATS)
        store: Any = None
        while not self._over.is_set():
            try:
                store = store or _store(own == 1, pause)
                mine += 1
                store.set(f"alive/{own}", str(mine))
                if self._here.is_set():
                    store.set(f"done/{own}", "1")
                for number in range(1, count + 1):
                    self._read_heartbeat(store, number)
                if not self._unfinished:
                    self._leave(store)
                    return
            except (RuntimeError, OSError):  # the rank that holds the store has not started yet, or has ended
                store = None
            if not self._here.wait(pause):
                continue
            time.sleep(min(pause, _POLL))

    def _read_heartbeat(self, store: Any, number: int) -> None:
        if store.check([f"alive/{number}"]):
            beat = int(store.get(f"alive/{number}"))
            if self._heartbeats.get(number, (0, 0.0))[0] != beat:
                self._heartbeats[number] = (beat, time.monotonic())
        if store.check([f"done/{number}"]):
            self._unfinished.discard(number)

    def _leave(self, store: Any) -> None:
        """Leave, but the rank that holds the store not before the others have read that all are done."""
        gone = store.add("gone", 1)
        until = time.monotonic() + _LEAVE_TIMEOUT
        while self._rank.number == 1 and gone < self._rank.count and time.monotonic() < until:
            time.sleep(0.05)
            gone = store.add("gone", 0)
        self._over.set()


def _store(first: bool, seconds: float) -> Any:
    """The key-value store of all ranks: torchrun's own, or one that the first rank holds."""
    import torch.distributed as dist

    holds = first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not holds:  # torch would log many errors if the store does not answer
        address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        socket.create_connection(address, timeout=max(seconds, 1)).close()
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), None, holds,
                          timedelta(seconds=max(seconds, 1)), wait_for_workers=False)  # fmt: skip
    return dist.PrefixStore(f"modfill/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def _timeout() -> float:
    text = os.environ.get(TIMEOUT, "")
    try:
        seconds = float(text) if text else _TIMEOUT
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ModfillError(f"{TIMEOUT} must be a number of seconds above 0, got '{text}'; unset or correct it")
    return seconds


def _listed(numbers: Sequence[int]) -> str:
    return f"rank{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
