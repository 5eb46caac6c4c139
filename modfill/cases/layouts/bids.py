"""BIDS: `sub-<label>[/ses-<label>]/anat/sub-<label>[_ses-<label>]..._T1w.nii.gz`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from modfill.cases.accounting import account
from modfill.cases.filenames import is_contrast_word, is_native_word, nifti_stem
from modfill.cases.files import CaseFiles, Cohort, case_of_candidates, folder_name, nifti_files, visible
from modfill.errors import CaseError
from modfill.modalities import ModalitySet

__all__ = ["UNCERTAINTY", "BidsName", "find", "is_bids"]

UNCERTAINTY = "modfillUncertainty"
"""The ``desc`` of uncertainty maps, which are no images of a modality."""


@dataclass(frozen=True)
class BidsName:
    """A modality's name in BIDS.

    Attributes:
        datatype: The folder, e.g. ``anat``.
        entities: Value by key, e.g. ``ce``: ``gadolinium``.
        suffix: The last word, e.g. ``T1w``.
    """

    datatype: str
    entities: dict[str, str]
    suffix: str

    @classmethod
    def of(cls, text: str) -> BidsName:
        """The name that a set writes as ``[datatype/][entities_]suffix``."""
        datatype, _, name = text.rpartition("/")
        *words, suffix = name.split("_")
        return cls(datatype or "anat", _entities(words), suffix)

    def is_of(self, found: BidsName) -> bool:
        """Return whether a file's name is this modality's. Any agent stands for contrast agent, and none for none."""
        others = {key: value for key, value in self.entities.items() if key != "ce"}
        same = (self.datatype, self.suffix) == (found.datatype, found.suffix)
        return same and ("ce" in self.entities) == _has_agent(found) and others.items() <= found.entities.items()


def _has_agent(name: BidsName) -> bool:
    return "ce" in name.entities and not is_native_word(name.entities["ce"])


def _entities(words: list[str]) -> dict[str, str]:
    return {key: value for key, _, value in (word.partition("-") for word in words)}


def is_bids(path: Path, modality_set: ModalitySet) -> bool:
    """Return whether a folder is a BIDS dataset, or a subject, session or data type of one, by its folders."""
    return next(_folders(path, _datatypes(modality_set)), None) is not None


def find(path: Path, modality_set: ModalitySet) -> Cohort:
    """Find the cases of a BIDS dataset: a subject, or each session of a subject that has sessions.

    ``derivatives`` and every folder but those of the set's data types are left alone, and so are masks and other
    suffixes. Two files of one modality (runs, acquisitions, reconstructions) are a problem, because it is not known
    which one is meant; so is an image whose name hints at contrast agent without the entity ``ce``.

    Args:
        path: The dataset's folder, or one ``sub-<label>``, ``ses-<label>`` or ``anat`` of it. It may itself be a
            derivative, e.g. of skull-stripped images.
        modality_set: The modalities to look for.

    Raises:
        CaseError: If no image is found.
    """
    found = (_case(folders, modality_set) for folders in _folders(path, _datatypes(modality_set)))
    cases = [case for case in found if case.paths or case.problem]
    if not cases:
        known = BidsName.of(modality_set.modalities[0].bids[0])
        raise CaseError(
            f"{path} must hold images such as sub-01/{known.datatype}/sub-01_{known.suffix}.nii.gz, got none in its "
            f"{' and '.join(_datatypes(modality_set))} folders; add them"
        )
    return Cohort("bids", cases)


def _names(modality_set: ModalitySet) -> list[tuple[str, BidsName]]:
    """Every BIDS name of every modality, those with most entities first."""
    names = [(modality.name, BidsName.of(text)) for modality in modality_set.modalities for text in modality.bids]
    return sorted(names, key=lambda pair: -len(pair[1].entities))


def _datatypes(modality_set: ModalitySet) -> tuple[str, ...]:
    return tuple(sorted({name.datatype for _, name in _names(modality_set)}))


def _folders(path: Path, datatypes: tuple[str, ...]) -> Iterator[list[Path]]:
    """The folders of images of each subject or session of a dataset, or the one folder of images itself."""
    own = folder_name(path)
    if own in datatypes:
        if folder_name(path.absolute().parent).startswith(("sub-", "ses-")):
            yield [path]
    elif own.startswith("ses-"):
        if folder_name(path.absolute().parent).startswith("sub-"):
            yield from _with_images(path, datatypes)
    elif own.startswith("sub-"):
        for folder in (path, *sorted(path.glob("ses-*"))):
            yield from _with_images(folder, datatypes)
    else:
        for subject in visible(path):
            if subject.name.startswith("sub-") and subject.is_dir():
                yield from _folders(subject, datatypes)


def _with_images(folder: Path, datatypes: tuple[str, ...]) -> Iterator[list[Path]]:
    there = [folder / datatype for datatype in datatypes if (folder / datatype).is_dir()]
    if there:
        yield there


def _case(folders: list[Path], modality_set: ModalitySet) -> CaseFiles:
    """The case of a subject's or session's folders."""
    above = folders[0].absolute().parent
    case_id = f"{above.parent.name}_{above.name}" if above.name.startswith("ses-") else above.name
    candidates: dict[str, list[Path]] = defaultdict(list)
    problem = None
    try:
        for file in (file for folder in folders for file in nifti_files(folder)):
            *words, suffix = (nifti_stem(file.name) or "").split("_")
            name = BidsName(folder_name(file.parent), _entities(words), suffix)
            modality = _modality(name, modality_set)
            if (
                modality is None
                or name.entities.get("desc") == UNCERTAINTY
                or name.entities.get("part", "mag") != "mag"
            ):
                continue  # the phase of a complex image shows no anatomy
            problem = problem or _foreign(case_id, file, words) or _hidden_agent(case_id, file, name, modality_set)
            candidates[modality].append(file)
        used = {file for files in candidates.values() for file in files}
        entries = [entry for folder in folders for entry in visible(folder) if entry not in used]
        others = account(entries, modality_set)
    except CaseError as error:
        return CaseFiles(case_id, {}, f"case {case_id}: {error}")
    what_to_do = "move the others away, or list the right ones in a .csv"
    case = case_of_candidates(case_id, candidates, modality_set, what_to_do)
    others = {name: "phase image" if "_part-phase_" in name else kind for name, kind in others.items()}
    return replace(case, problem=problem or case.problem, others=others)


def _modality(found: BidsName, modality_set: ModalitySet) -> str | None:
    return next((modality for modality, name in _names(modality_set) if name.is_of(found)), None)


def _foreign(case_id: str, file: Path, words: list[str]) -> str | None:
    """A file of another subject or session in this one's folder."""
    if "_".join(words[: case_id.count("_") + 1]) == case_id:
        return None
    return f"case {case_id}: {file.name} must begin with {case_id}_, got another name; rename or move it"


def _hidden_agent(case_id: str, file: Path, name: BidsName, modality_set: ModalitySet) -> str | None:
    """An image that seems to be enhanced must not pass for a native one, where the set tells the two apart."""
    entities = name.entities
    hints = (
        f"{key}-{entities[key]}"
        for key in ("acq", "rec", "desc")
        if is_contrast_word(entities.get(key, ""), modality_set)
    )
    hint, enhanced = next(hints, None), replace(name, entities=entities | {"ce": "gadolinium"})
    if hint is None or _has_agent(name) or _modality(enhanced, modality_set) == _modality(name, modality_set):
        return None
    return (
        f"case {case_id}: {file.name} must have the entity ce if contrast agent was given, got {hint} without one; "
        f"rename it, e.g. to {case_id}_ce-gadolinium_{name.suffix}.nii.gz"
    )
