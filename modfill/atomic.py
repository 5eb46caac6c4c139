"""Files that appear whole or not at all, and one wording for a file that cannot be written."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modfill.errors import ModfillError

__all__ = ["leftovers_removed", "replacing", "writable"]


@contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Write a file under another name and give it its own name at the end.

    Nothing is left behind on failure, and a former file stays as it was. Any number of processes, on any number of
    machines, may write the same file: the last one wins.

    Args:
        path: the file; its folder is made.
        sync: wait until the content is on the disk, so that a power cut leaves no empty file under the name.

    Yields:
        Where to write: a path of the same file name in a hidden folder beside the file. A reader of the folder that
        takes every file, as nnU-Net does, finds none there.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_prefix(path), dir=path.parent) as scratch:
        temporary = Path(scratch) / path.name
        yield temporary
        if sync:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)


def leftovers_removed(path: Path) -> None:
    """Remove what processes that were killed while they wrote a file left behind. Nobody may be writing it now."""
    for scratch in path.parent.glob(f"{_prefix(path)}*"):
        shutil.rmtree(scratch, ignore_errors=True)


def _prefix(path: Path) -> str:
    """The beginning of the scratch folders' names: no longer than the longest name that the file may have."""
    return f".tmp-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}-"


@contextmanager
def writable(path: Path | str, error: type[ModfillError] = ModfillError, case_id: str | None = None) -> Iterator[None]:
    """Turn a failed write into one line.

    Args:
        path: what is written in the context.
        error: raised instead of OSError.
        case_id: the case, with which the message begins.

    Raises:
        ModfillError: an `error`, if the folder or disk does not take it.
    """
    try:
        yield
    except OSError as reason:
        where = f"case {case_id}: " if case_id is not None else ""
        raise error(
            f"{where}cannot write {path} ({reason.strerror or reason}); free space or choose another folder"
        ) from reason
