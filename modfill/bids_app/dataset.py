"""The input of the BIDS App: its validity, the chosen cases, and how the derivative refers to it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from modfill.cases.files import Cohort
from modfill.cases.finding import find_cohort
from modfill.errors import CaseError, ModfillError, SettingsError
from modfill.modalities import BRATS, ModalitySet

__all__ = ["chosen", "source_datasets", "validate"]

_LOG = logging.getLogger("modfill")
_VALIDATOR = "bids-validator-deno"
_MOST_ERRORS = 5


def chosen(
    bids_dir: Path,
    participants: Sequence[str] | None,
    sessions: Sequence[str] | None,
    modality_set: ModalitySet = BRATS,
) -> Cohort:
    """The cases of a BIDS dataset, of some subjects and sessions.

    Args:
        bids_dir: the dataset.
        participants: labels, with or without `sub-`; None takes all.
        sessions: labels, with or without `ses-`; None takes all.
        modality_set: the modalities to look for.

    Raises:
        CaseError: the folder is no BIDS dataset.
        SettingsError: a label is not there, or no case has both.
    """
    if not bids_dir.is_dir():
        raise CaseError(f"{bids_dir} must be the folder of a BIDS dataset, got none; correct the path")
    cohort = find_cohort(bids_dir, modality_set=modality_set)
    if cohort.layout != "bids":
        raise CaseError(f"{bids_dir} must be a BIDS dataset, got layout {cohort.layout}; use modfill complete for it")
    subjects = _entities("sub", participants, {case.case_id.partition("_")[0] for case in cohort.cases})
    visits = _entities("ses", sessions, {case.case_id.partition("_")[2] for case in cohort.cases} - {""})
    cases = [
        case
        for case in cohort.cases
        if (subjects is None or case.case_id.partition("_")[0] in subjects)
        and (visits is None or case.case_id.partition("_")[2] in visits)
    ]
    if not cases:
        raise SettingsError("the chosen participants must have one of the chosen sessions, got none that has")
    return replace(cohort, cases=cases)


def _entities(key: str, labels: Sequence[str] | None, known: set[str]) -> set[str] | None:
    """The labels with their key. Raises SettingsError for one that is not in the dataset."""
    if labels is None:
        return None
    wanted = {f"{key}-{label.removeprefix(f'{key}-')}" for label in labels}
    if unknown := sorted(wanted - known):
        shown = ", ".join(sorted(known)[:10]) or "none"
        raise SettingsError(f"labels must be of the dataset ({shown}), got {', '.join(unknown)}")
    return wanted


def validate(bids_dir: Path) -> None:
    """Check a dataset with the official validator; without one, log a warning.

    Raises:
        ModfillError: the validator found errors, or did not run.
    """
    beside = Path(sys.executable).with_name(_VALIDATOR)
    program = str(beside) if beside.exists() else shutil.which(_VALIDATOR)
    if program is None:
        _LOG.warning("%s is not validated: pip install %s", bids_dir, _VALIDATOR)
        return
    done = subprocess.run(
        [program, "--format", "json", str(bids_dir)], capture_output=True, text=True, check=False, encoding="utf8"
    )
    try:
        issues = json.loads(done.stdout)["issues"]["issues"]
        errors = [f"{issue['code']} ({issue.get('location', '')})" for issue in issues if issue["severity"] == "error"]
    except (ValueError, LookupError, TypeError) as error:
        raise ModfillError(f"{_VALIDATOR} must give JSON, got: {(done.stderr or done.stdout)[-200:]}") from error
    if errors:
        more = f" and {len(errors) - _MOST_ERRORS} more" if len(errors) > _MOST_ERRORS else ""
        raise ModfillError(
            f"{bids_dir} must be valid BIDS, got {', '.join(errors[:_MOST_ERRORS])}{more}; correct it, or skip the "
            "validation"
        )


def source_datasets(bids_dir: Path, out: Path) -> list[dict[str, str]]:
    """`SourceDatasets` of the derivative: the dataset's DOI if it has one, and its path from the output folder."""
    try:
        doi = json.loads((bids_dir / "dataset_description.json").read_text(encoding="utf8")).get("DatasetDOI")
    except (OSError, ValueError, AttributeError, RecursionError):
        doi = None
    way = Path(os.path.relpath(os.path.realpath(bids_dir), os.path.realpath(out))).as_posix()
    return [{"URL": quote(way), **({"DOI": doi} if isinstance(doi, str) else {})}]
