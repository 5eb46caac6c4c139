"""Files written whole or not at all, and the one message for a file that cannot be written."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modfill.errors import ModfillError

__all__ = ["remove_leftovers", "replacing", "writable"]


@contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Write a file beside its place and move it there once it is whole.

    On an error the former file stays as it is, and nothing is left behind.

    Args:
        path: The file; its folder is made if need be.
        sync: Wait until the content is on the disk. Without, an empty file may be left after a power cut.

    Yields:
        A path of the same file name, to be written to, in a hidden folder of its own.

    Raises:
        OSError: The file cannot be written.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # os.replace would put a file in place of /dev/null
        raise OSError(errno.EINVAL, "it is a device or pipe", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    # a folder with a random name: two machines or containers may share process numbers, and nnU-Net would take a
    # file in imagesTr that a killed process left for a case
    with tempfile.TemporaryDirectory(prefix=_prefix(path), dir=path.parent, ignore_cleanup_errors=True) as scratch:
        temporary = Path(scratch) / path.name
        yield temporary
        if sync:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)


def remove_leftovers(path: Path) -> None:
    """Remove the folders that killed processes left behind while they wrote a file. Nobody may be writing it now.

    Args:
        path: The file that was given to `replacing`.
    """
    for scratch in path.parent.glob(f"{_prefix(path)}*"):
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def writable(what: Path | str, error: type[ModfillError] = ModfillError, case: str | None = None) -> Iterator[None]:
    """Turn an OSError into one line that says what cannot be written.

    Args:
        what: The file or folder.
        error: The class to raise.
        case: The case's id, with which the message begins.

    Raises:
        ModfillError: `error`, if an OSError is raised in the context.
    """
    try:
        yield
    except OSError as problem:
        where = "" if case is None else f"case {case}: "
        reason = problem.strerror or problem
        raise error(f"{where}cannot write {what} ({reason}); free space or choose another folder") from problem


def _prefix(path: Path) -> str:
    """Start of the names of a file's scratch folders; short, whatever the length of the file's name."""
    return f".tmp-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}-"
