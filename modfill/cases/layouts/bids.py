"""BIDS: `sub-<label>[/ses-<label>]/anat/sub-<label>[_ses-<label>]..._T1w.nii.gz`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from modfill.cases.accounting import account
from modfill.cases.filenames import is_contrast_word, is_native_word, nifti_stem
from modfill.cases.files import CaseFiles, Cohort, case_of_candidates, folder_name, nifti_files, visible
from modfill.errors import CaseError

__all__ = ["BIDS_SUFFIXES", "UNCERTAINTY", "find", "is_bids"]

BIDS_SUFFIXES = {"t1n": "T1w", "t1c": "T1w", "t2w": "T2w", "t2f": "FLAIR"}
"""The suffix of each modality; a T1w with the entity ``ce`` is a t1c, one without is a t1n."""

UNCERTAINTY = "modfillUncertainty"
"""The ``desc`` of uncertainty maps, which are no images of a modality."""


def is_bids(path: Path) -> bool:
    """Return whether a folder is a BIDS dataset, or a subject, session or anat folder of one, by its folders."""
    return next(_anat_folders(path), None) is not None


def find(path: Path) -> Cohort:
    """Find the cases of a BIDS dataset: a subject, or each session of a subject that has sessions.

    ``derivatives`` and every folder but ``anat`` are left alone, and so are masks and suffixes other than T1w, T2w
    and FLAIR. Two files of one modality (runs, acquisitions, reconstructions) are a problem, because it is not
    known which one is meant; so is a T1w whose name hints at contrast agent without the entity ``ce``.

    Args:
        path: The dataset's folder, or one ``sub-<label>``, ``ses-<label>`` or ``anat`` of it. It may itself be a
            derivative, e.g. of skull-stripped images.

    Raises:
        CaseError: If no image is found.
    """
    cases = [case for case in map(_case, _anat_folders(path)) if case.paths or case.problem]
    if not cases:
        raise CaseError(
            f"{path} must hold images such as sub-01/anat/sub-01_T1w.nii.gz, got none in its anat folders; add them"
        )
    return Cohort("bids", cases)


def _anat_folders(path: Path) -> Iterator[Path]:
    """The anat folders of a dataset, a subject or a session, or the anat folder itself."""
    own = folder_name(path)
    if own == "anat":
        if folder_name(path.absolute().parent).startswith(("sub-", "ses-")):
            yield path
    elif own.startswith("ses-"):
        if (path / "anat").is_dir() and folder_name(path.absolute().parent).startswith("sub-"):
            yield path / "anat"
    elif own.startswith("sub-"):
        for folder in (path, *sorted(path.glob("ses-*"))):
            if (folder / "anat").is_dir():
                yield folder / "anat"
    else:
        for subject in visible(path):
            if subject.name.startswith("sub-") and subject.is_dir():
                yield from _anat_folders(subject)


def _case(anat: Path) -> CaseFiles:
    above = anat.absolute().parent
    case_id = f"{above.parent.name}_{above.name}" if above.name.startswith("ses-") else above.name
    candidates: dict[str, list[Path]] = defaultdict(list)
    problem = None
    try:
        for file in nifti_files(anat):
            *words, suffix = (nifti_stem(file.name) or "").split("_")
            entities = {key: value for key, _, value in (word.partition("-") for word in words)}
            agent = "ce" in entities and not is_native_word(entities["ce"])
            modality = _modality(suffix, agent)
            if modality is None or entities.get("desc") == UNCERTAINTY or entities.get("part", "mag") != "mag":
                continue  # the phase of a complex image shows no anatomy
            problem = problem or _foreign(case_id, file, words) or _hidden_agent(case_id, file, modality, entities)
            candidates[modality].append(file)
        used = {file for files in candidates.values() for file in files}
        others = account(entry for entry in visible(anat) if entry not in used)
    except CaseError as error:
        return CaseFiles(case_id, {}, f"case {case_id}: {error}")
    case = case_of_candidates(case_id, candidates, "move the others away, or list the right ones in a .csv")
    others = {name: "phase image" if "_part-phase_" in name else kind for name, kind in others.items()}
    return replace(case, problem=problem or case.problem, others=others)


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
    hint = next(
        (f"{key}-{entities[key]}" for key in ("acq", "rec", "desc") if is_contrast_word(entities.get(key, ""))), None
    )
    if modality != "t1n" or hint is None:
        return None
    return (
        f"case {case_id}: {file.name} must have the entity ce if contrast agent was given, got {hint} without one; "
        f"rename it, e.g. to {case_id}_ce-gadolinium_T1w.nii.gz"
    )
