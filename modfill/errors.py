"""The errors modfill raises on purpose; each message is one line written for users."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["CaseError", "ModfillError", "SettingsError", "WeightsError", "printable", "within_memory"]


class ModfillError(Exception):
    """Base of all errors that a user can put right.

    Args:
        text: on one line; a file's name in it may hold line breaks and terminal codes.
        message: given instead by torch, which raises anew what a data loader's worker raised, with its traceback:
            several lines, of which the last one holds such a text.
    """

    def __init__(self, text: str = "", *, message: str = ""):
        super().__init__(text or message)
        self._in_lines = bool(message)

    @property
    def message(self) -> str:
        """The text; that there is a property of this name makes torch give `message`."""
        return str(self)

    def __str__(self) -> str:
        return super().__str__() if self._in_lines else printable(super().__str__())


class CaseError(ModfillError):
    """A case that cannot be found, read or completed."""


class SettingsError(ModfillError, ValueError):
    """A setting or argument that is of another type, out of range, or does not suit the weights."""


class WeightsError(ModfillError):
    """A weights file that cannot be read or does not fit."""


def printable(text: str) -> str:
    """Text on one line that any terminal and any encoding of Unicode takes: what is not printable is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@contextmanager
def within_memory(where: str) -> Iterator[None]:
    """Turn running out of memory, on the CPU or a GPU, into one line.

    Args:
        where: Case or file, with which the message begins.

    Raises:
        ModfillError: The memory does not suffice for what is done in the context.
    """
    # oneDNN's product of bfloat16 matrices is short of memory; torch says so in two lines and tries another one
    warnings.filterwarnings("ignore", "mkldnn_matmul failed")
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch says it with a RuntimeError; on the CPU, oneDNN only that it could not make its parts
        phrases = ("allocate memory", "out of memory", "could not create a memory", "could not create a primitive")
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in phrases):
            raise
        raise ModfillError(
            f"{where}: must fit into memory, got out of memory; free some, or crop the images to the brain"
        ) from error
