"""The modalities of a case and the names their files go by, as tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = [
    "ALIASES",
    "MODALITIES",
    "NAMES",
    "NEAREST",
    "SEGMENTATION_WORDS",
    "is_contrast_word",
    "is_native_word",
    "is_other_sequence",
    "is_segmentation",
    "modality_of",
    "nearest_source",
    "nifti_stem",
    "possible_splits",
    "split_name",
]

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
"""The BraTS set, in the order used everywhere."""

NAMES = {"t1n": "T1", "t1c": "T1ce (T1 with contrast agent)", "t2w": "T2", "t2f": "FLAIR"}
"""What people call each modality."""

NEAREST = {"t1n": "t1c", "t1c": "t1n", "t2w": "t2f", "t2f": "t2w"}
"""The modality most like each one."""

_AGENTS = ("gadovist", "gadavist", "dotarem", "clariscan", "magnevist", "prohance", "multihance", "omniscan",
           "elucirem", "vueway", "gadobutrol", "gadoterate", "gadoteridol", "gadodiamide", "gadobenate")  # fmt: skip
_CONTRAST_WORDS = (
    *("c", "ce", "gd", "gad", "gado", "gadolinium", "post", "contrast", "postcontrast", "post_contrast", "enhanced"),
    *("postgd", "postgad", "post_gd", "post_gad", "gd_dtpa", "gddtpa", "enh", "post_c"),
    *("km", "kontrast", "kontrastmittel", "mdc", "mezzo_di_contrasto", "contraste", "con_contraste", "avec_contraste"),
    *("with_contrast", "with_gd", "mit_km", "contrasto", "civ", "inj", *_AGENTS),
)
_NATIVE_WORDS = ("pre", "native", "nativ", "precontrast", "pre_contrast", "non_contrast", "noncontrast", "nc", "pregd",
                 "pregad", "pre_gd", "pre_gad", "ohne_km", "sans_contraste", "senza_mdc", "sin_contraste")  # fmt: skip
_NEGATIONS = ("no", "non", "none", "without", "pre", "ohne", "sans", "senza", "sin", "native", "nativ")


def _joined(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{a}{separator}{b}" for a in first for b in second for separator in ("", "_"))


_T1 = ("t1", "t1w")
_FRONT_WORDS = tuple(word for word in _CONTRAST_WORDS if word not in ("c", "enh", "inj", "civ"))  # of "post_T1"

ALIASES: dict[str, tuple[str, ...]] = {
    "t1n": (*_T1, "t1n", *_joined(_T1, _NATIVE_WORDS), *_joined(_NATIVE_WORDS, _T1), "pre"),
    "t1c": (
        *_joined(_T1, _CONTRAST_WORDS),
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

_UNNAMED_T1 = ("pre", "post")  # a T1 is meant, unless another modality stands before

_OTHER_SEQUENCES = frozenset((
    *("adc", "dwi", "dti", "swi", "asl", "pd", "pdw", "fa", "md", "rd", "ad", "bold", "mra", "tof", "cbf", "cbv"),
    *("rcbv", "dsc", "dce", "perf", "perfusion", "mtt", "ttp", "tmax", "t2star", "t2s", "t2starw", "t2sw", "ktrans"),
    *("qsm", "phase", "l1", "l2", "l3", "epi", "fieldmap", "magnitude", "magnitude1", "magnitude2", "phasediff"),
    *("pet", "ct", "t1map", "t2map", "r1map", "r2map", "unit1", "mtr", "bias", "biasfield", "probseg", "dseg"),
    *("aseg", "aparc", "parcellation", "tissues"),
))  # fmt: skip

SEGMENTATION_WORDS = ("gt", "gtv", "label", "labels", "mask", "masks", "roi", "seg", "segm", "segmentation",
                      "segmentations", "brainmask", "tumor", "tumour", "lesion", "lesions", "ce_mask")  # fmt: skip
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


def _uniform(name: str) -> str:
    """Lower case, every separator ``_``, the number of a copy such as `` (1)`` left out; as long as can be."""
    name = re.sub(r"\s*\(\d+\)$", "", name.lower())
    return re.sub(r"[-+\s]", "_", name)


def modality_of(name: str) -> str | None:
    """The modality that a channel, column or the like is named after, e.g. ``T1 Gd``; None if it is no alias."""
    uniform = "_".join(word for word in _uniform(name.strip()).split("_") if word)
    if uniform in _UNNAMED_T1:
        return None
    return next((modality for modality, aliases in ALIASES.items() if uniform in aliases), None)


def nearest_source(target: str, available: Sequence[str]) -> str:
    """The available modality most like `target`, whose intensities and data type a synthetic image takes.

    Args:
        target: a modality of ``MODALITIES``.
        available: at least one modality; without the nearest, the first one counts.
    """
    return NEAREST[target] if NEAREST[target] in available else available[0]


def is_contrast_word(word: str) -> bool:
    """Tell whether a word in a file's name says that contrast agent was given, e.g. ``gd``, ``PostGad`` or ``T1ce``.

    Words are compared whole: ``postop`` says nothing about contrast agent.
    """
    parts = [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", word)]
    if word.lower() in _CONTRAST_WORDS or modality_of(word) == "t1c":
        return True
    return not set(parts) & set(_NEGATIONS) and any(
        part in _CONTRAST_WORDS or part.startswith("gado") for part in parts
    )


def is_native_word(word: str) -> bool:
    """Tell whether the value of BIDS' entity ``ce`` says that no contrast agent was given, e.g. ``none``."""
    return word.lower() in (*_NEGATIONS, *_NATIVE_WORDS, "0", "false")


def possible_splits(filename: str) -> list[tuple[str, str]]:
    """Every way to split ``<case_id><separator><alias>.nii[.gz]`` into case id and modality, longest alias first.

    Letter case does not matter and the separator is ``-``, ``_``, ``+`` or a blank. A bare ``t1c.nii.gz`` has the case
    id ``""``. Empty if the file is no NIfTI file or its name ends in no alias.
    """
    stem = nifti_stem(filename)
    if stem is None:
        return []
    stem = re.sub(r"\s*\(\d+\)$", "", stem)
    uniform = _uniform(stem)
    found: dict[str, str] = {}
    for alias, modality in _LONGEST_FIRST:
        if uniform == alias or uniform.endswith("_" + alias):
            case_id = stem[: len(stem) - len(alias)].rstrip("-_+ ")
            if alias in _UNNAMED_T1 and possible_splits(f"{case_id}.nii"):
                continue  # "t2_post" may be after surgery
            found.setdefault(case_id, modality)
    return list(found.items())


def split_name(filename: str) -> tuple[str, str] | None:
    """Split ``<case_id><separator><alias>.nii[.gz]`` into case id and modality; the longest alias wins.

    ``p1_t2_flair.nii.gz`` is FLAIR of ``p1``, not of ``p1_t2``.

    Args:
        filename: Name of a file, without folders.

    Returns:
        ``(case_id, modality)``; the case id is ``""`` for a bare ``t1c.nii.gz``. None if the file is no
        NIfTI file or its name ends in no alias.
    """
    return next(iter(possible_splits(filename)), None)


def is_other_sequence(filename: str) -> bool:
    """Tell whether a NIfTI file's name ends as that of a sequence or map that modfill does not complete, e.g. ADC."""
    stem = nifti_stem(filename)
    words = [] if stem is None else re.split(r"[-_+\s]", stem.lower())
    return bool(words) and any(word in _OTHER_SEQUENCES for word in words) and not possible_splits(filename)


def is_segmentation(filename: str) -> bool:
    """Tell whether a NIfTI file's name ends as a segmentation or mask does, e.g. ``p1-seg.nii.gz``."""
    stem = nifti_stem(filename)
    if stem is None:
        return False
    words = stem.lower().replace("-", "_").split("_")
    if words[-1] in _QUALIFIERS:
        words.pop()
    return bool(words) and words[-1] in SEGMENTATION_WORDS
