"""Parts of a cohort: shards of array jobs, and the ranks of torchrun."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from modfill.errors import ModfillError

__all__ = ["Part", "wait_for_the_others"]

_T = TypeVar("_T")
_LONGEST_WAIT = timedelta(days=30)  # for the slowest rank


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
            raise ModfillError(
                f"--shard must be one of 1/N to N/N, got '{text}'; e.g. --shard 3/16 for the third of 16"
            )
        return part

    @classmethod
    def of_rank(cls) -> Part:
        """This process's part under torchrun; the whole without. Raises ModfillError if torchrun's variables are not
        all there."""
        given = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE")]
        if given == [None, None]:
            return cls(1, 1)
        rank, ranks = (int(text) if text and text.isdecimal() else -1 for text in given)
        if not 0 <= rank < ranks:
            raise ModfillError("RANK and WORLD_SIZE must be as torchrun sets them, got "
                               f"{given[0]} and {given[1]}; unset both, or use --shard")  # fmt: skip
        return cls(rank + 1, ranks)

    def of(self, items: Sequence[_T]) -> Sequence[_T]:
        """Every `count`-th item, beginning with the `number`-th: the parts of a cohort are equal and disjoint."""
        return items[self.number - 1 :: self.count]


def wait_for_the_others() -> None:
    """Wait until every rank of torchrun is here: it ends all of them as soon as one ends with an error."""
    if "WORLD_SIZE" not in os.environ:
        return
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=_LONGEST_WAIT)
    dist.barrier()
    dist.destroy_process_group()
