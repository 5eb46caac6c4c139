"""The modalities of a case and the names their files go by, as tables."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from modfill.errors import CaseError

__all__ = [
    "ALIASES",
    "MODALITIES",
    "NAMES",
    "NEAREST",
    "SHORT_NAMES",
    "by_modality",
    "modalities_of",
    "modality_of",
    "nearest_source",
]

_T = TypeVar("_T")

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
"""The BraTS set, in the order used everywhere."""

SHORT_NAMES = {"t1n": "T1", "t1c": "T1ce", "t2w": "T2", "t2f": "FLAIR"}
"""The usual short name of each modality."""

NAMES = SHORT_NAMES | {"t1c": f"{SHORT_NAMES['t1c']} (T1 with contrast agent)"}
"""The same, with an explanation where one is needed."""

NEAREST = {"t1n": "t1c", "t1c": "t1n", "t2w": "t2f", "t2f": "t2w"}
"""The modality most like each one."""

_AGENTS = ("gadovist", "gadavist", "dotarem", "clariscan", "magnevist", "prohance", "multihance", "omniscan",
           "elucirem", "vueway", "gadobutrol", "gadoterate", "gadoteridol", "gadodiamide", "gadobenate")  # fmt: skip
CONTRAST_WORDS = (
    *("c", "ce", "gd", "gad", "gado", "gadolinium", "post", "contrast", "postcontrast", "post_contrast", "enhanced"),
    *("postgd", "postgad", "post_gd", "post_gad", "gd_dtpa", "gddtpa", "enh", "post_c"),
    *("km", "kontrast", "kontrastmittel", "mdc", "mezzo_di_contrasto", "contraste", "con_contraste", "avec_contraste"),
    *("with_contrast", "with_gd", "mit_km", "contrasto", "civ", "inj", *_AGENTS),
)
NATIVE_WORDS = ("pre", "native", "nativ", "precontrast", "pre_contrast", "non_contrast", "noncontrast", "nc", "pregd",
                 "pregad", "pre_gd", "pre_gad", "ohne_km", "sans_contraste", "senza_mdc", "sin_contraste")  # fmt: skip


def _joined(fronts: tuple[str, ...], ends: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{a}{separator}{b}" for a in fronts for b in ends for separator in ("", "_"))


_T1 = ("t1", "t1w")
_FRONT_WORDS = tuple(word for word in CONTRAST_WORDS if word not in ("c", "enh", "inj", "civ"))  # of "post_T1"

ALIASES: dict[str, tuple[str, ...]] = {
    "t1n": (*_T1, "t1n", *_joined(_T1, NATIVE_WORDS), *_joined(NATIVE_WORDS, _T1), "pre"),
    "t1c": (
        *_joined(_T1, CONTRAST_WORDS),
        *("t1cw", "t1c_w", "t1cew", "t1ce_w", "ct1", "ct1w"),
        *_joined(_FRONT_WORDS, _T1),
        # BIDS tells contrast before the suffix; without these it would pass for a native T1.
        *("ce_gadolinium_t1w", "ce_gd_t1w"),
        "post",
    ),
    "t2w": ("t2", "t2w"),
    "t2f": ("flair", "fla", "t2f", "t2_f", "t2fla", "t2_fla", "t2flair", "t2_flair", "t2wflair", "t2w_flair"),
}
"""Names of each modality in files, lower case; ``_`` stands for any separator: ``-``, ``_``, ``+`` or a blank."""

UNNAMED_T1 = ("pre", "post")  # a T1 is meant, unless another modality stands before


def uniform(name: str) -> str:
    """Lower case, every separator ``_``, the number of a copy such as `` (1)`` left out; as long as can be."""
    name = re.sub(r"\s*\(\d+\)$", "", name.lower())
    return re.sub(r"[-+\s]", "_", name)


def modality_of(name: str) -> str | None:
    """The modality that a channel, column or the like is named after, e.g. ``T1 Gd``; None if it is no alias."""
    words = "_".join(word for word in uniform(name.strip()).split("_") if word)
    if words in UNNAMED_T1:
        return None
    return next((modality for modality, aliases in ALIASES.items() if words in aliases), None)


def nearest_source(target: str, available: tuple[str, ...]) -> str:
    """The available modality most like `target`, whose intensities and data type a synthetic image takes.

    Args:
        target: a modality of ``MODALITIES``.
        available: at least one modality; without the nearest, the first one counts.
    """
    return NEAREST[target] if NEAREST[target] in available else available[0]


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
