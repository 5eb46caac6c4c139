"""Names of files: modality, segmentation, another sequence."""

from __future__ import annotations

import re

from modfill.modalities import BRATS, ModalitySet, uniform
from modfill.sets.words import CONTRAST_WORDS, NATIVE_WORDS, SEGMENTATION_WORDS

__all__ = [
    "SEGMENTATION_WORDS",
    "is_contrast_word",
    "is_native_word",
    "is_other_sequence",
    "is_segmentation",
    "nifti_stem",
    "possible_splits",
    "split_name",
]

_NEGATIONS = ("no", "non", "none", "without", "pre", "ohne", "sans", "senza", "sin", "native", "nativ")

_OTHER_SEQUENCES = frozenset((
    *("adc", "dwi", "dti", "swi", "asl", "pd", "pdw", "fa", "md", "rd", "ad", "bold", "mra", "tof", "cbf", "cbv"),
    *("rcbv", "dsc", "dce", "perf", "perfusion", "mtt", "ttp", "tmax", "t2star", "t2s", "t2starw", "t2sw", "ktrans"),
    *("qsm", "phase", "l1", "l2", "l3", "epi", "fieldmap", "magnitude", "magnitude1", "magnitude2", "phasediff"),
    *("pet", "ct", "t1map", "t2map", "r1map", "r2map", "unit1", "mtr", "bias", "biasfield", "probseg", "dseg"),
    *("aseg", "aparc", "parcellation", "tissues"),
))  # fmt: skip

_QUALIFIERS = ("healthy", "unhealthy")  # BraTS' inpainting task has -mask-healthy and -mask-unhealthy
_EXTENSIONS = (".nii.gz", ".nii")


def nifti_stem(filename: str) -> str | None:
    """Return the name without ``.nii.gz`` or ``.nii`` (any case), or None if it has neither."""
    for extension in _EXTENSIONS:
        if filename.lower().endswith(extension):
            return filename[: -len(extension)]
    return None


def is_contrast_word(word: str, modality_set: ModalitySet) -> bool:
    """Return whether a word in a file's name stands for contrast agent, e.g. ``gd``, ``PostGad`` or ``T1ce``.

    Words are compared whole: ``postop`` does not stand for contrast agent.
    """
    parts = [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", word)]
    modality = modality_set.modality_of(word)
    if word.lower() in CONTRAST_WORDS or (modality is not None and modality_set[modality].enhanced):
        return True
    return not set(parts) & set(_NEGATIONS) and any(part in CONTRAST_WORDS or part.startswith("gado") for part in parts)


def is_native_word(word: str) -> bool:
    """Return whether a value of BIDS' entity ``ce`` means that no contrast agent was given, e.g. ``none``."""
    return word.lower() in (*_NEGATIONS, *NATIVE_WORDS, "0", "false")


def possible_splits(filename: str, modality_set: ModalitySet) -> list[tuple[str, str]]:
    """Every way to split ``<case_id><separator><alias>.nii[.gz]`` into case id and modality, longest alias first.

    Letter case does not matter and the separator is ``-``, ``_``, ``+`` or a blank. A bare ``t1c.nii.gz`` has the case
    id ``""``. Empty if the file is no NIfTI file or its name ends in no alias.
    """
    stem = nifti_stem(filename)
    if stem is None:
        return []
    stem = re.sub(r"\s*\(\d+\)$", "", stem)
    name = uniform(stem)
    found: dict[str, str] = {}
    for alias, modality in modality_set.longest_aliases_first:
        if name == alias or name.endswith("_" + alias):
            case_id = stem[: len(stem) - len(alias)].rstrip("-_+ ")
            if alias in modality_set.weak_aliases and possible_splits(f"{case_id}.nii", modality_set):
                continue  # "t2_post" may be after surgery
            found.setdefault(case_id, modality)
    return list(found.items())


def split_name(filename: str, modality_set: ModalitySet) -> tuple[str, str] | None:
    """Split ``<case_id><separator><alias>.nii[.gz]`` into case id and modality; the longest alias wins.

    ``p1_t2_flair.nii.gz`` is FLAIR of ``p1``, not of ``p1_t2``.

    Args:
        filename: Name of a file, without folders.
        modality_set: The modalities to look for.

    Returns:
        ``(case_id, modality)``; the case id is ``""`` for a bare ``t1c.nii.gz``. None if the file is no
        NIfTI file or its name ends in no alias.
    """
    return next(iter(possible_splits(filename, modality_set)), None)


def is_other_sequence(filename: str, modality_set: ModalitySet) -> bool:
    """Return whether a NIfTI file's name is that of a sequence or map that the set lacks, e.g. ADC."""
    stem = nifti_stem(filename)
    if stem is None or possible_splits(filename, modality_set):
        return False
    words = re.split(r"[-_+\s]", stem.lower())
    return any(word in _OTHER_SEQUENCES for word in words) or bool(possible_splits(filename, BRATS))


def is_segmentation(filename: str) -> bool:
    """Return whether a NIfTI file's name ends like that of a segmentation or mask, e.g. ``p1-seg.nii.gz``."""
    stem = nifti_stem(filename)
    if stem is None:
        return False
    words = stem.lower().replace("-", "_").split("_")
    if words[-1] in _QUALIFIERS:
        words.pop()
    return bool(words) and words[-1] in SEGMENTATION_WORDS
