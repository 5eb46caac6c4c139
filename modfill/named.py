"""Modalities as users name them: by any name that files go by, too."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from modfill.errors import CaseError
from modfill.modalities import MODALITIES, modality_of

__all__ = ["by_modality", "modalities_of"]

_T = TypeVar("_T")


def modalities_of(names: str | Iterable[str], what: str = "a modality") -> tuple[str, ...]:
    """The modalities that a user named, in their order.

    Args:
        names: Names that ``modality_of`` knows, e.g. ``flair`` or ``T1ce``; a string is one name.
        what: What they are for, with which the message begins.

    Raises:
        CaseError: If a name is no modality's.
    """
    given = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    found = []
    for name in given:
        modality = modality_of(name) if isinstance(name, str) else None
        if modality is None:
            raise CaseError(
                f"{what} must be one of {', '.join(MODALITIES)}, or a name of theirs such as T1ce or flair, "
                f"got {name!r}; correct or leave it out"
            )
        found.append(modality)
    return tuple(found)


def by_modality(items: Mapping[str, _T], what: str = "a modality", others: Collection[str] = ()) -> dict[str, _T]:
    """The same items under the modalities that their keys name.

    Args:
        items: By a name that ``modality_of`` knows.
        what: What the keys are, with which a message begins.
        others: Names that are no modality's and stay as they are, e.g. of other channels of a dataset.

    Raises:
        CaseError: If a key is no modality's, or two are the same one's.
    """
    found: dict[str, _T] = {}
    names: dict[str, str] = {}
    for name in items:
        modality = name if name in others else modalities_of([name], what)[0]
        if modality in found:
            raise CaseError(f"{what} must be named once, got {names[modality]!r} and {name!r}; leave one out")
        found[modality], names[modality] = items[name], name
    return found
