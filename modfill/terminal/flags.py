"""Messages of the library with keyword arguments as flags of the command line."""

from __future__ import annotations

import re

__all__ = ["in_flags"]

_KEYWORDS = (
    *("allow_synthetic", "assume_aligned", "channels", "deep", "ignore_unexplained", "jobs", "link", "mask"),
    *("naming", "out", "record", "reference", "t1"),
    *("mode", "overwrite", "shard", "sources", "validate", "weights"),
)
_PATTERN = re.compile(rf"\b({'|'.join(_KEYWORDS)})=(\[[^\]]*\]|'[^']*'|\w+|…)")


def in_flags(message: str) -> str:
    """The same message with `overwrite=True` as `--overwrite`, and `jobs=1` as `--jobs 1`.

    Args:
        message: of an error or a warning of the library.
    """

    def flag(match: re.Match[str]) -> str:
        name, value = f"--{match[1].replace('_', '-')}", match[2].strip("[]'").replace("', '", " ")
        return name if value == "True" else f"{name} {value}"

    return _PATTERN.sub(flag, message)
