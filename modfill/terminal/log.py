"""The log of the library, on the terminal and in a file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modfill.errors import SettingsError, printable
from modfill.terminal.flags import in_flags

__all__ = ["shown"]

_LOG = logging.getLogger("modfill")


class _Terminal(logging.Handler):
    """Writes news to stdout, warnings and errors to stderr, above a bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        news = record.levelno < logging.WARNING
        stream = sys.stdout if news else sys.stderr
        text = record.getMessage() if news else f"modfill: {in_flags(record.getMessage())}"
        tqdm.write(printable(text), file=stream)
        stream.flush()


@contextmanager
def shown(*, quiet: bool = False, verbose: bool = False, log: Path | None = None) -> Iterator[None]:
    """Show the library's log while the context lasts.

    Args:
        quiet: errors only.
        verbose: each step of each case too.
        log: a file to which everything is appended, with time and level, whatever the terminal shows.

    Raises:
        SettingsError: the file cannot be written.
    """
    handlers: list[logging.Handler] = [_Terminal(logging.ERROR if quiet else logging.DEBUG)]
    if log is not None:
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(logging.FileHandler(log, encoding="utf8", errors="backslashreplace"))
        except OSError as error:
            raise SettingsError(f"cannot write the log {log} ({error.strerror}); choose another file") from error
        handlers[-1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = _LOG.level
    _LOG.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet and log is None else logging.INFO)
    for handler in handlers:
        _LOG.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            _LOG.removeHandler(handler)
            handler.close()
        _LOG.setLevel(level)
