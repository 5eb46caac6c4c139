"""The modalities of a case and the names their files go by, as tables."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ALIASES",
    "MODALITIES",
    "NAMES",
    "NEAREST",
    "SEGMENTATION_WORDS",
    "is_contrast_word",
    "is_segmentation",
    "modality_of",
    "nearest_source",
    "nifti_stem",
    "split_name",
]

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
"""The BraTS set, in the order used everywhere."""

NAMES = {"t1n": "T1", "t1c": "T1ce (T1 with contrast agent)", "t2w": "T2", "t2f": "FLAIR"}
"""What people call each modality."""

NEAREST = {"t1n": "t1c", "t1c": "t1n", "t2w": "t2f", "t2f": "t2w"}
"""The modality most like each one."""

_CONTRAST_WORDS = ("c", "ce", "gd", "gad", "gado", "gadolinium", "post", "contrast", "postcontrast", "post_contrast")

ALIASES: dict[str, tuple[str, ...]] = {
    "t1n": (
        *("t1", "t1n", "t1w", "t1native", "t1_native", "t1_nativ"),
        *(f"{base}{separator}pre" for base in ("t1", "t1w") for separator in ("", "_")),
    ),
    "t1c": (
        *(f"{base}{separator}{word}" for base in ("t1", "t1w") for separator in ("", "_") for word in _CONTRAST_WORDS),
        *("t1cw", "t1c_w", "t1cew", "t1ce_w"),
        # BIDS tells contrast before the suffix; without these it would pass for a native T1.
        *("ce_gadolinium_t1w", "ce_gd_t1w"),
    ),
    "t2w": ("t2", "t2w"),
    "t2f": ("flair", "fla", "t2f", "t2_f", "t2fla", "t2_fla", "t2flair", "t2_flair", "t2wflair", "t2w_flair"),
}
"""Names of each modality in files, lower case; ``_`` stands for either separator, ``-`` or ``_``."""

SEGMENTATION_WORDS = ("gt", "gtv", "label", "labels", "mask", "masks", "roi", "seg", "segm", "segmentation")
"""Last words of files that hold a segmentation or a mask; BraTS 2020 has a ``_Segm``, 2024 a ``_gtv``."""

_QUALIFIERS = ("healthy", "unhealthy")  # BraTS' inpainting task has -mask-healthy and -mask-unhealthy
_EXTENSIONS = (".nii.gz", ".nii")
_LONGEST_FIRST = sorted(
    ((alias, modality) for modality, aliases in ALIASES.items() for alias in aliases),
    key=lambda entry: -len(entry[0]),
)


def nifti_stem(filename: str) -> str | None:
    """Return the name without ``.nii.gz`` or ``.nii`` (any case), or None if it has neither."""
    for extension in _EXTENSIONS:
        if filename.lower().endswith(extension):
            return filename[: -len(extension)]
    return None


def modality_of(name: str) -> str | None:
    """The modality that a channel, column or the like is named after, e.g. ``T1 Gd``; None if it is no alias."""
    uniform = "_".join(name.lower().replace("-", " ").replace("_", " ").split())
    return next((modality for modality, aliases in ALIASES.items() if uniform in aliases), None)


def nearest_source(target: str, available: Sequence[str]) -> str:
    """The available modality most like `target`, whose intensities and data type a synthetic image takes.

    Args:
        target: a modality of ``MODALITIES``.
        available: at least one modality; without the nearest, the first one counts.
    """
    return NEAREST[target] if NEAREST[target] in available else available[0]


def is_contrast_word(word: str) -> bool:
    """Tell whether a word in a file's name says that contrast agent was given, e.g. ``gd`` or ``PostGad``."""
    word = word.lower()
    return word in _CONTRAST_WORDS or any(part in word for part in ("gad", "post", "contrast"))


def split_name(filename: str) -> tuple[str, str] | None:
    """Split ``<case_id><separator><alias>.nii[.gz]`` into case id and modality.

    Letter case does not matter, the separator is ``-`` or ``_``, and the longest alias wins:
    ``p1_t2_flair.nii.gz`` is FLAIR of ``p1``, not of ``p1_t2``.

    Args:
        filename: Name of a file, without folders.

    Returns:
        ``(case_id, modality)``; the case id is ``""`` for a bare ``t1c.nii.gz``. None if the file is no
        NIfTI file or its name ends in no alias.
    """
    stem = nifti_stem(filename)
    if stem is None:
        return None
    uniform = stem.lower().replace("-", "_")
    for alias, modality in _LONGEST_FIRST:
        if uniform == alias or uniform.endswith("_" + alias):
            return stem[: len(stem) - len(alias)].rstrip("-_"), modality
    return None


def is_segmentation(filename: str) -> bool:
    """Tell whether a NIfTI file's name ends as a segmentation or mask does, e.g. ``p1-seg.nii.gz``."""
    stem = nifti_stem(filename)
    if stem is None:
        return False
    words = stem.lower().replace("-", "_").split("_")
    if words[-1] in _QUALIFIERS:
        words.pop()
    return bool(words) and words[-1] in SEGMENTATION_WORDS
