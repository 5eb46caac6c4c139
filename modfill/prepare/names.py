"""The words in names of series, files and folders: which modality they state, and whose images they are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from modfill.cases.filenames import is_contrast_word, is_native_word, is_other_sequence, split_name
from modfill.modalities import BRATS

__all__ = ["are_sequences", "is_other", "is_scout", "modality_in", "patient_in", "patients_apart", "words_of"]

_FLAIR = ("flair", "fla", "tirm", "darkfluid", "dark")
_T1 = ("t1", "mprage", "mpr", "bravo", "spgr", "fspgr", "vibe", "tfe", "memprage")
_OTHER = ("dwi", "diff", "diffusion", "adc", "apparent", "trace", "tensor", "dti", "swi", "susceptibility", "perf",
          "perfusion", "asl", "dsc", "dce", "tof", "angio", "mra", "mip", "bold", "fmri", "phase", "pd", "spectro",
          "svs", "csi", "gre", "hemo", "star", "map", "b0", "b1000", "fieldmap", "ct", "pet")  # fmt: skip
_SCOUT = ("localizer", "localiser", "loc", "scout", "survey", "aahead", "plane", "calibration", "asset")
_BIDS_FOLDERS = ("anat", "dwi", "func", "fmap", "perf", "swi", "mrs", "pet")
_NO_PATIENT = ("ax", "axial", "sag", "sagittal", "cor", "coronal", "tra", "trans", "transversal", "transverse", "obl",
               "2d", "3d", "iso", "se", "tse", "fse", "frfse", "spin", "echo", "ir", "space", "cube", "vista", "brain",
               "head", "mr", "mri", "series", "scan", "image", "img", "raw", "native", "orig", "original", "dicom",
               "nifti", "std", "propeller", "blade", "stealth", "w", "wo")  # fmt: skip


def words_of(name: str) -> list[str]:
    """The words of a name, lower case; ``+c`` is one of its own, ``gd``."""
    text = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
    text = re.sub(r"(?i)dark[ _-]?fluid", "darkfluid", text).replace("+c", " gd").replace("+C", " gd")
    return [word.lower() for word in re.split(r"[^A-Za-z0-9*]+", text) if word]


def modality_in(name: str) -> str | None:
    """The modality that a name states."""
    words = words_of(name)
    split = split_name(name if name.lower().endswith((".nii", ".nii.gz")) else f"{name}.nii", BRATS)
    if split and split[1] in ("t1c", "t2f"):
        return split[1]
    if any(_is_flair(word) for word in words):
        return "t2f"
    if any("*" in word for word in words):
        return None
    agent = any(is_contrast_word(word, BRATS) for word in words if word not in ("c", "pre")) and not any(
        word in ("pre", "without", "wo", "non", "no", "w/o") for word in words
    )
    if any(_is_t1(word) for word in words):
        return "t1c" if agent else "t1n"
    if any(word.startswith("t2") for word in words):
        return "t2w"
    return split[1] if split else None


def is_scout(name: str) -> bool:
    """Whether a name states a localiser."""
    return any(word in _SCOUT for word in words_of(name))


def is_other(name: str) -> bool:
    """Whether a name states a sequence or a map that is none of the case's modalities."""
    return any(word in _OTHER for word in words_of(name)) or is_other_sequence(name, BRATS)


def are_sequences(folders: Sequence[str]) -> bool:
    """Whether folders are named after sequences of one patient, or as BIDS names its folders; not after patients.

    Words count whole here: T1D and PD may be diseases.
    """
    stated = [modality for name in folders if (modality := _modality_in_whole_words(name))]
    bids = all(name.lower() in _BIDS_FOLDERS for name in folders)
    return bids or (len(set(stated)) > 1 and not patients_apart(folders))


def _modality_in_whole_words(name: str) -> str | None:
    return modality_in(name) if any(BRATS.modality_of(word) for word in words_of(name)) else None


def patient_in(name: str) -> str:
    """Whose image a file's name says it is: the words before the sequence's, or BIDS' subject and session."""
    entities = re.match(r"sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?", name)
    if entities:
        return entities.group().lower()
    words = words_of(name)
    end = next((n for n, word in enumerate(words) if _is_t1(word) or _is_flair(word) or word.startswith("t2")), None)
    return " ".join(
        word
        for word in words[:end]
        if word not in _NO_PATIENT
        and (len(word) > 1 or word.isdigit())
        and not is_contrast_word(word, BRATS)
        and not is_native_word(word)
    )


def patients_apart(names: Sequence[str]) -> list[str]:
    """One file's name for each patient, if the names say that there are several; else nothing.

    Short numbers count only if one stands before several sequences: those of series differ from file to file.
    """
    patients = [patient_in(name) for name in names]
    if max(Counter(filter(None, patients)).values(), default=0) <= 1:
        patients = [
            " ".join(word for word in patient.split() if not word.isdigit() or len(word) > 3) for patient in patients
        ]
    first = dict(reversed([(patient, name) for patient, name in zip(patients, names, strict=True) if patient]))
    return sorted(first.values()) if len(first) > 1 else []


def _is_flair(word: str) -> bool:
    return word in _FLAIR or word.startswith("flair") or word.endswith("flair")


def _is_t1(word: str) -> bool:
    return word in _T1 or word.startswith("t1")
