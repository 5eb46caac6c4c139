"""Write a complete copy of a raw nnU-Net dataset whose cases lack channels, for nnU-Net's own commands."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modfill.cases.files import Cohort
from modfill.cases.finding import find_cohort
from modfill.cases.layouts.dataset_json import FILE_ENDING, IMAGE_FOLDERS, load_description
from modfill.cases.marks import read_sidecar, sidecar_path
from modfill.cases.reading import synthetic_file
from modfill.cohort.dataset import incomplete_cases, warn_of_incomplete
from modfill.cohort.parts import Meeting, Share
from modfill.cohort.progress import follow
from modfill.cohort.table import read_table
from modfill.completer import ModalityCompleter
from modfill.errors import ModfillError
from modfill.modalities import ModalitySet
from modfill.outputs.linking import describe, remove_description
from modfill.outputs.naming import OutputFolder, output_folder

__all__ = ["prepare_dataset"]


def prepare_dataset(
    dataset_id: int,
    *,
    new_id: int,
    channels: Sequence[str] | None = None,
    weights: Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    jobs: int = 1,
    shard: str = "1/1",
) -> Path:
    """Write `Dataset<new_id>_<name>_modfill` into nnUNet_raw, in which no case lacks a channel.

    Acquired images and labels are relative links; synthetic images stand among them, each with its sidecar. Test cases
    go to imagesTs, so that nnU-Net can predict them. `cohort.csv` lists every case. Progress is logged, and so are
    all cases that failed; a case that fails does not stop the others.

    A run begins by removing dataset.json and writes it at the end, if every case of the source is complete then.
    nnU-Net cannot use a folder without it, so it never uses a dataset that lacks a channel or a case. Of several
    processes, the one that finishes last writes it.

    Args:
        dataset_id: Number of the raw dataset with gaps.
        new_id: Number of the dataset to write.
        channels: Modalities in the order of the channels; None takes them from dataset.json's channel_names.
        weights: A file that `modfill train` wrote; None takes the shipped ones.
        device: As for `ModalityCompleter`.
        overwrite: Do finished synthetic images again.
        jobs: Cases computed at the same time, as for `ModalityCompleter.complete_cohort`.
        shard: The part of the cases that this process completes, e.g. "3/16"; ranks of torchrun share it.

    Returns:
        The new dataset's folder. Without dataset.json where other shards have not finished; a warning is logged.

    Raises:
        ModfillError: If the dataset is not there or cannot be read, the modality of a channel is ambiguous, the new
            number is taken, or, after all cases, if some failed.
    """
    share = Share.of_shard(shard)
    source, target = _folders(dataset_id, new_id)
    completer = ModalityCompleter(weights, device=device)
    cohort = _raw_cohort(source, channels, completer.modality_set)
    out = output_folder(target, "nnunet", cohort)
    _complete(completer, cohort, out, share, overwrite=overwrite, jobs=jobs)
    _describe_if_complete(source, out, cohort, share)
    return target


def _complete(
    completer: ModalityCompleter, cohort: Cohort, out: OutputFolder, share: Share, *, overwrite: bool, jobs: int
) -> None:
    """Complete this process's share of the cases, and wait for the other ranks."""
    meeting = Meeting(share.rank)
    wanted = cohort.modality_set.in_order(cohort.channels)
    results = completer.complete_cohort(
        cohort, out=out, targets=wanted, overwrite=overwrite, link=True, jobs=jobs, shard=str(share.part)
    )
    remove_description(out)
    _remove_gone_cases(out, cohort)
    with contextlib.closing(results):  # also when a signal comes between two results
        follow(results, results.total, jobs=jobs, label=share.label)
    meeting.wait()


def _describe_if_complete(source: Path, out: OutputFolder, cohort: Cohort, share: Share) -> None:
    """Write dataset.json if every case is complete. Raises ModfillError if a case of this process failed."""
    incomplete = _incomplete_cases(out, cohort)
    found = share.of(cohort.cases)
    failed = [case for case in found if case.case_id in incomplete]
    if failed:
        raise ModfillError(
            f"{out.path.name} must have every case complete to get a dataset.json, got {len(failed)} of {len(found)} "
            "failed; correct them or move them away, and run the same command again"
        )
    if incomplete:
        warn_of_incomplete(out, cohort, incomplete)
    else:
        described = replace(out, channels=cohort.channels)  # the source's channels and no more
        describe(described, cohort, {"modfill": _record(source, out, cohort)})


def _folders(dataset_id: int, new_id: int) -> tuple[Path, Path]:
    """The folders of both datasets in nnUNet_raw. Raises ModfillError if one is not there or the other is taken."""
    if not 0 < new_id < 1000:
        raise ModfillError(f"the new dataset's number must be from 1 to 999, got {new_id}; choose another")
    setting = os.environ.get("nnUNet_raw")  # noqa: SIM112 (nnU-Net's own name)
    if not setting or not Path(setting).is_dir():
        raise ModfillError(
            f"nnUNet_raw must be set to the folder of nnU-Net's raw datasets, got {setting!r}; export it"
        )
    raw = Path(os.path.abspath(setting))
    sources = _numbered(raw, dataset_id)
    if len(sources) != 1:
        got = ", ".join(folder.name for folder in sources) or "none"
        raise ModfillError(f"{raw} must hold one Dataset{dataset_id:03d}_<name>, got {got}; check -d and nnUNet_raw")
    target = raw / f"Dataset{new_id:03d}_{sources[0].name.partition('_')[2]}_modfill"
    taken = [folder.name for folder in _numbered(raw, new_id) if folder != target]
    if taken:
        raise ModfillError(f"the new dataset's number must be free, got {new_id}, that of {taken[0]}; choose another")
    return sources[0], target


def _numbered(raw: Path, number: int) -> list[Path]:
    return sorted(folder for folder in raw.glob(f"Dataset{number:03d}_*") if folder.is_dir())


def _raw_cohort(source: Path, channels: Sequence[str] | None, modality_set: ModalitySet) -> Cohort:
    """The cases of a raw dataset. Raises ModfillError if it is none, or has no training cases."""
    load_description(source)
    cohort = find_cohort(source, modality_set=modality_set, channels=channels)
    if cohort.layout != "nnunet":
        raise ModfillError(
            f"{source} must hold a file for each channel, imagesTr/<case>_0000{FILE_ENDING}, got layout "
            f"'{cohort.layout}'; complete it with naming='nnunet' and link=True, which makes an nnU-Net dataset of it"
        )
    if not any(case.label for case in cohort.cases):
        raise ModfillError(f"{source} must hold training cases, got none in dataset.json and imagesTr; add them")
    return cohort


def _remove_gone_cases(out: OutputFolder, cohort: Cohort) -> None:
    """Remove links and synthetic images of an earlier run that belong to no case of the source any more."""
    numbers = range(len(cohort.channels))
    wanted = {out.channel(case.case_id, number) for case in cohort.cases for number in numbers}
    wanted |= {out.path / "labelsTr" / f"{case_id}{FILE_ENDING}" for case_id in out.training}
    for folder in (*IMAGE_FOLDERS, "labelsTr"):
        for file in sorted(set((out.path / folder).glob(f"[!.]*{FILE_ENDING}")) - wanted):
            if file.is_symlink() or synthetic_file(file):
                file.unlink(missing_ok=True)
                if read_sidecar(sidecar_path(file)) is not None:
                    sidecar_path(file).unlink(missing_ok=True)


def _incomplete_cases(out: OutputFolder, cohort: Cohort) -> set[str]:
    """The cases that failed or lack a channel, or that no process has completed yet."""
    numbers = range(len(cohort.channels))
    gaps = {c.case_id for c in cohort.cases if not all(out.channel(c.case_id, n).exists() for n in numbers)}
    return gaps | incomplete_cases(out, cohort, linked=True)


def _record(source: Path, out: OutputFolder, cohort: Cohort) -> dict[str, Any]:
    """The record of the completion in dataset.json: the source, and the synthetic channels of training cases."""
    synthetic = {}
    for row in read_table(out.path):
        targets = [channel for channel in cohort.channels if channel in row["targets"].split()]
        if targets and row["case"] in out.training:
            synthetic[row["case"]] = targets
    return {"CompletedFrom": source.name, "SyntheticChannels": synthetic}
