"""The description of a completed dataset: nnU-Net's dataset.json is written when every case is complete."""

from __future__ import annotations

import logging
from collections.abc import Collection

from modfill.atomic import writable
from modfill.cases.files import CaseFiles, Cohort
from modfill.cases.layouts.dataset_json import FILE_ENDING
from modfill.cohort.locks import locked
from modfill.cohort.table import read_table
from modfill.outputs.linking import check_description, describe, remove_description
from modfill.outputs.naming import OutputFolder

__all__ = ["begin_description", "finish_description", "incomplete_cases", "warn_of_incomplete"]

_LOG = logging.getLogger("modfill")

_OF_ALL_CASES = ("nnunet",)  # namings whose description counts the cases
_LOCK = ".dataset-lock"  # so that no process removes a description that another one has just written


def begin_description(out: OutputFolder, cohort: Cohort, *, linked: bool) -> None:
    """Write a description that is correct at any time (BIDS), or remove one that is not correct yet (nnU-Net).

    Args:
        out: The output folder.
        cohort: All cases, not only those of one shard.
        linked: The acquired images are linked too.

    Raises:
        ModfillError: The folder cannot be written, a description that is not modfill's lies there, or the labels of the
            cohort are not usable.
    """
    if out.naming not in _OF_ALL_CASES:
        describe(out, cohort)
        return
    check_description(out, cohort)
    with writable(out.path), locked(out.path / _LOCK):
        if incomplete_cases(out, cohort, linked=linked):
            remove_description(out)


def finish_description(out: OutputFolder, cohort: Cohort, *, linked: bool) -> None:
    """Write the description if every case is complete; else remove it and log a warning.

    Of several processes with a shard each, the one that finishes last writes it.

    Args:
        out: The output folder.
        cohort: All cases, not only those of one shard.
        linked: The acquired images are linked too.

    Raises:
        ModfillError: The folder cannot be written, or a description that is not modfill's lies there.
    """
    if out.naming not in _OF_ALL_CASES:
        return
    with writable(out.path), locked(out.path / _LOCK):
        incomplete = incomplete_cases(out, cohort, linked=linked)
        if incomplete:
            remove_description(out)
        else:
            describe(out, cohort)
    if incomplete:
        warn_of_incomplete(out, cohort, incomplete)


def warn_of_incomplete(out: OutputFolder, cohort: Cohort, incomplete: Collection[str]) -> None:
    """Log why there is no dataset.json."""
    _LOG.warning(
        "%s has no dataset.json yet: %d of %d cases are not complete; see cohort.csv, correct the cases that failed "
        "and run all shards",
        out.path, len(incomplete), len(cohort.cases),
    )  # fmt: skip


def incomplete_cases(out: OutputFolder, cohort: Cohort, *, linked: bool) -> set[str]:
    """The ids of the cases that failed or that no process has completed yet, in nnU-Net's naming.

    Args:
        out: The output folder.
        cohort: All cases.
        linked: A case without its links is not complete.
    """
    rows = {row["case"]: row for row in read_table(out.path)}

    def is_complete(files: CaseFiles) -> bool:
        row = rows.get(files.case_id)
        if row is None or row["status"] == "failed":
            return False
        images = [out.image(files.case_id, modality) for modality in row["targets"].split()]
        if linked and files.label is not None:  # a case's label is linked after its images
            images.append(out.path / "labelsTr" / f"{files.case_id}{FILE_ENDING}")
        return all(image.exists() for image in images)

    return {files.case_id for files in cohort.cases if not is_complete(files)}
