"""BIDS: `sub-<label>[/ses-<label>]/anat/sub-<label>[_ses-<label>]..._T1w.nii.gz`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from modfill.errors import CaseError
from modfill.layouts.files import CaseFiles, Cohort, case_of_candidates, folder_name, nifti_files, visible
from modfill.modalities import is_contrast_word, nifti_stem

__all__ = ["BIDS_SUFFIXES", "UNCERTAINTY", "find", "is_bids"]

BIDS_SUFFIXES = {"t1n": "T1w", "t1c": "T1w", "t2w": "T2w", "t2f": "FLAIR"}
"""The suffix of each modality; a T1w with the entity ``ce`` is a t1c, one without is a t1n."""

UNCERTAINTY = "modfillUncertainty"
"""The ``desc`` of uncertainty maps, which are no images of a modality."""


def is_bids(path: Path) -> bool:
    """Tell whether a folder is a BIDS dataset or one subject of it, by its folders."""
    own = folder_name(path).startswith("sub-")
    return next(_anat_folders([path] if own else _subjects(path)), None) is not None


def find(path: Path) -> Cohort:
    """Find the cases of a BIDS dataset: a subject, or each session of a subject that has sessions.

    ``derivatives`` and every folder but ``anat`` are left alone, and so are masks and suffixes other than T1w, T2w
    and FLAIR. Two files of one modality (runs, acquisitions, reconstructions) are a problem, because nothing says
    which one is meant; so is a T1w whose name hints at contrast agent without the entity ``ce``.

    Args:
        path: The dataset's folder, or one ``sub-<label>`` of it. It may itself be a derivative, e.g. of
            skull-stripped images.

    Raises:
        CaseError: If no image is found.
    """
    subjects = [path] if folder_name(path).startswith("sub-") else _subjects(path)
    cases = []
    for subject in subjects:
        found = [_case(folder) for folder in _anat_folders([subject])]
        cases += [case for case in found if case.paths or case.problem]
    if not cases:
        raise CaseError(
            f"{path} must hold images such as sub-01/anat/sub-01_T1w.nii.gz, got none in its anat folders; add them"
        )
    return Cohort("bids", cases)


def _subjects(path: Path) -> list[Path]:
    return [folder for folder in visible(path) if folder.name.startswith("sub-") and folder.is_dir()]


def _anat_folders(subjects: list[Path]) -> Iterator[Path]:
    for subject in subjects:
        for folder in (subject, *sorted(subject.glob("ses-*"))):
            if (folder / "anat").is_dir():
                yield folder / "anat"


def _case(anat: Path) -> CaseFiles:
    above = Path(folder_name(anat.parent))
    session = above.name.startswith("ses-")
    case_id = f"{folder_name(anat.parent.parent)}_{above.name}" if session else above.name
    candidates: dict[str, list[Path]] = defaultdict(list)
    problem = None
    try:
        for file in nifti_files(anat):
            *words, suffix = (nifti_stem(file.name) or "").split("_")
            entities = {key: value for key, _, value in (word.partition("-") for word in words)}
            modality = _modality(suffix, "ce" in entities)
            if modality is None or entities.get("desc") == UNCERTAINTY:
                continue
            problem = problem or _foreign(case_id, file, words) or _hidden_agent(case_id, file, modality, entities)
            candidates[modality].append(file)
    except CaseError as error:
        return CaseFiles(case_id, {}, f"case {case_id}: {error}")
    case = case_of_candidates(case_id, candidates, "move the others away, or list the right ones in a .csv")
    return replace(case, problem=problem) if problem else case


def _modality(suffix: str, agent: bool) -> str | None:
    """The modality of a suffix; contrast agent changes that of a T1w alone."""
    if suffix == "T1w":
        return "t1c" if agent else "t1n"
    return next((modality for modality, known in BIDS_SUFFIXES.items() if known == suffix), None)


def _foreign(case_id: str, file: Path, words: list[str]) -> str | None:
    """A file of another subject or session in this one's folder."""
    if "_".join(words[: case_id.count("_") + 1]) == case_id:
        return None
    return f"case {case_id}: {file.name} must begin with {case_id}_, got another name; rename or move it"


def _hidden_agent(case_id: str, file: Path, modality: str, entities: dict[str, str]) -> str | None:
    """A T1w that seems to be enhanced must not pass for a native one."""
    hint = next((f"{key}-{entities[key]}" for key in ("acq", "rec") if is_contrast_word(entities.get(key, ""))), None)
    if modality != "t1n" or hint is None:
        return None
    return (
        f"case {case_id}: {file.name} must have the entity ce if contrast agent was given, got {hint} without one; "
        f"rename it, e.g. to {case_id}_ce-gadolinium_T1w.nii.gz"
    )
