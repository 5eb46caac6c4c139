"""The check of a set's description: every key known and of its kind, every name fit for files."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from modfill.errors import SettingsError
from modfill.sets.words import SEGMENTATION_WORDS

__all__ = ["checked"]

_TEXTS = ("short", "long", "nearest", "channel", "brats2021", "enhanced", "unsafe")
_LISTS = ("aliases", "weak_aliases", "bids")
_FORMS = {
    "name": (r"[a-z0-9]{1,32}", "1 to 32 lower-case letters and digits"),
    "aliases": (r"[a-z0-9*.]+(_[a-z0-9*.]+)*", "lower-case letters and digits, with '_' for any separator"),
    "weak_aliases": (r"[a-z0-9]+", "lower-case letters and digits"),
    "bids": (r"([a-z]+/)?([a-z]+-[A-Za-z0-9+]+_)*[A-Za-z0-9]+", "[datatype/][entities_]suffix, e.g. dwi/acq-b0_dwi"),
    "brats2021": (r"[A-Za-z0-9]{1,32}", "1 to 32 letters and digits"),
}
_FREE = (r"[^\x00-\x1f\x7f]{1,200}", "1 to 200 printable characters")
_RESERVED = {*SEGMENTATION_WORDS, "uncertainty", "synthetic", "prepared"}
_MOST = 16  # modalities: a description may come from a stranger's weights


def checked(table: Any, where: str) -> tuple[str, dict[str, dict[str, Any]], bool]:
    """The name of a set, its modalities' descriptions with all defaults by name, and whether it is skull-stripped.

    Args:
        table: As TOML or JSON gives it.
        where: The file, with which a message begins.

    Raises:
        SettingsError: A key is unknown or of another kind, a name cannot name files, a nearest modality is none of the
            set's, or there are fewer than two modalities.
    """
    if not isinstance(table, Mapping):
        raise SettingsError(f"{where} must hold 'name' and 'modalities', got {table!r}; correct it")
    _refuse_unknown(table, ("name", "skull_stripped", "modalities"), where)
    name, modalities = table.get("name"), table.get("modalities")
    _check_form("name", name, f"{where}: name")
    stripped = table.get("skull_stripped", True)
    if not isinstance(stripped, bool):
        raise SettingsError(f"{where}: skull_stripped must be true or false, got {stripped!r}; correct it")
    if not isinstance(modalities, Mapping) or not 2 <= len(modalities) <= _MOST:
        got = len(modalities) if isinstance(modalities, Mapping) else repr(modalities)
        raise SettingsError(f"{where}: there must be 2 to {_MOST} tables [modalities.NAME], got {got}; add or remove")
    for modality, description in modalities.items():
        _check(modality, description, where)
    described = {m: _filled(m, d, list(modalities), where) for m, d in modalities.items()}
    return str(name), described, stripped


def _check(modality: Any, description: Any, where: str) -> None:
    """Refuse unknown keys and values of another kind in one modality's description."""
    place = f"{where}: modalities.{modality}"
    _check_form("name", modality, f"{where}: the name of modality '{modality}'")
    if modality in _RESERVED:
        raise SettingsError(f"{place} must not be called like another kind of file; choose another name")
    if not isinstance(description, Mapping):
        raise SettingsError(f"{place} must be a table, got {description!r}; write [modalities.{modality}]")
    _refuse_unknown(description, (*_TEXTS, *_LISTS), place)
    for key, value in description.items():
        several = key in _LISTS and isinstance(value, list | tuple)
        for item in value if several else [value]:
            _check_form(key, item, f"{place}: {key}")


def _filled(modality: str, description: Mapping[str, Any], all_names: list[str], where: str) -> dict[str, Any]:
    short = description.get("short", modality)
    others = [name for name in all_names if name != modality]
    filled = {"short": short, "long": short, "nearest": others[0], "bids": modality, "channel": short,
              "brats2021": modality, **description}  # fmt: skip
    for key in ("nearest", "enhanced"):
        if key in filled and filled[key] not in others:
            raise SettingsError(
                f"{where}: modalities.{modality}: {key} must be one of {', '.join(others)}, got '{filled[key]}'; "
                "correct it"
            )
    return {key: _several(value) if key in _LISTS else value for key, value in filled.items()}


def _several(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _refuse_unknown(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean {near[0]}?" if near else "; correct or remove it"
            raise SettingsError(f"{where}: a key must be one of {', '.join(known)}, got '{key}'{hint}")


def _check_form(key: str, value: Any, where: str) -> None:
    pattern, form = _FORMS.get(key, _FREE)
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise SettingsError(f"{where} must be {form}, got {value!r}; correct it")
