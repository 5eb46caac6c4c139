"""The line of a study: find -> recognise -> register -> strip -> resample -> check -> write."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modfill import __version__
from modfill.atomic import replacing, writable
from modfill.cases.files import folder_name, id_problem
from modfill.cases.marks import voxel_hash
from modfill.errors import CaseError, ModfillError, SettingsError
from modfill.modalities import BRATS
from modfill.prepare.finding import find_series, find_studies
from modfill.prepare.grid import Grid, grid_around, grid_of_reference, resample
from modfill.prepare.images import save_image, stored
from modfill.prepare.picture import draw
from modfill.prepare.recognition import Choice, choose
from modfill.prepare.record import SUFFIX, grid_to, package_versions, read_record, scan_to
from modfill.prepare.registration import Registration, register
from modfill.prepare.scan import Matrix, Scan, as_sitk, read_scan
from modfill.prepare.stripping import Brain, brain_of, doubts_of

__all__ = ["PreparedStudy", "prepare_studies", "prepare_study"]

_LOG = logging.getLogger("modfill")

_INSTALL = "pip install 'modfill[prepare]'"
_BEST_FIRST = ("t1c", "t1n", "t2f", "t2w")  # among scans of the same resolution


@dataclass(frozen=True, eq=False)
class PreparedStudy:
    """A case that `complete` takes.

    Attributes:
        case_id: its name.
        folder: the case's folder.
        paths: the prepared image of each modality that the study has.
        record: the JSON file with transforms, masks, versions and hashes.
        picture: a PNG to look at.
        reasons: why each series of the study was taken or left out.
        warnings: what a user should know though it stops nothing.
    """

    case_id: str
    folder: Path
    paths: dict[str, Path]
    record: Path
    picture: Path
    reasons: dict[str, str]
    warnings: tuple[str, ...] = ()


@dataclass(eq=False)
class _Work:
    """A study between two steps."""

    case_id: str
    scans: dict[str, Scan]
    reasons: dict[str, str]
    reference: str
    registrations: dict[str, Registration] = field(default_factory=dict)
    grid: Grid = field(init=False)
    brain: Brain = field(init=False)
    heads: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def matrix(self, modality: str) -> Matrix:
        """World of the reference -> world of a scan."""
        return np.eye(4) if modality == self.reference else self.registrations[modality].matrix


def prepare_study(
    study: str | Path | Mapping[str, str | Path],
    *,
    out: str | Path,
    reference: str | None = None,
    mask: str | Path | None = None,
    bias_correction: bool = False,
    ignore_unexplained: bool = False,
    case_id: str | None = None,
) -> PreparedStudy:
    """Turn the raw scans of one patient into a case: registered, skull-stripped, 1 mm, background 0.

    Args:
        study: a folder with NIfTI or DICOM images, or single files by modality, e.g. ``{"t1": FILE, "flair": FILE}``.
        out: the case's folder is made in this folder.
        reference: modality to which the others are registered; None takes the scan of the best resolution.
        mask: the brain on the grid of one of the scans; None lets deepbet find it.
        bias_correction: N4 (Tustison et al. 2010) on every image.
        ignore_unexplained: leave out series that nothing identifies, although a modality is missing.
        case_id: name of the case; None takes that of the study's folder.

    Raises:
        CaseError: no series is recognised, one is doubtful, or a registration or the brain mask is; the message names
            the picture.
        SettingsError: an argument is no modality.
        ModfillError: a package of the extra ``prepare`` is missing, or a file cannot be written.
    """
    _require_packages()
    if not isinstance(study, Mapping):
        _require_outside(Path(out), Path(study))
    with tempfile.TemporaryDirectory() as scratch:
        work = _read(study, Path(scratch), reference, ignore_unexplained, case_id)
        _require_free(work, Path(out))
        _register(work)
        _strip(work, None if mask is None else Path(mask))
        _resample(work)
        images = {m: _image(work, m, bias_correction) for m in work.scans}
        return _write(work, images, Path(out), bias_correction)


def prepare_studies(
    folder: str | Path, *, out: str | Path, ignore_unexplained: bool = False, bias_correction: bool = False
) -> Iterator[PreparedStudy | CaseError]:
    """Prepare every study of a folder, one after the other; a study that fails gives its error and stops no other.

    Args:
        folder: one study, or a folder of studies.
        out: the cases' folders are made in this folder.
        ignore_unexplained: as in `prepare_study`.
        bias_correction: likewise.
    """
    _require_packages()
    _require_outside(Path(out), Path(folder))
    for study in find_studies(Path(folder)):
        try:
            yield prepare_study(study, out=out, ignore_unexplained=ignore_unexplained, bias_correction=bias_correction)
        except CaseError as error:
            yield CaseError(f"study {study.name}: {error}")


def _require_packages() -> None:
    """Raise ModfillError with the command that installs what is missing."""
    try:
        import deepbet  # noqa: F401
        import SimpleITK  # noqa: F401, N813
    except ImportError as error:
        raise ModfillError(f"preparing raw scans needs more packages (no {error.name}): {_INSTALL}") from error


def _read(
    study: str | Path | Mapping[str, str | Path],
    scratch: Path,
    reference: str | None,
    ignore_unexplained: bool,
    case_id: str | None,
) -> _Work:
    """Find, recognise and read the scans, and choose the reference."""
    if isinstance(study, Mapping):
        named = {m: Path(path) for m, path in BRATS.by_modality(study).items()}
        choice = _named_files(named, scratch)
        folder = next(iter(named.values())).parent
    else:
        folder = Path(study)
        if (found := find_studies(folder)) != [folder]:
            raise CaseError(f"{folder} must be one study, got {len(found)}: {found[0].name}, …; give one of them")
        choice = choose(find_series(folder, scratch), {}, ignore_unexplained=ignore_unexplained)
    case_id = case_id or folder_name(folder)
    if problem := id_problem(case_id):
        raise CaseError(problem)
    scans = {m: read_scan(series.path, series.source) for m, series in choice.series.items()}
    for key, reason in choice.reasons.items():
        _LOG.info("%s: %s: %s", case_id, key, reason)
    if reference is not None:
        wanted = BRATS.modality_of(reference)
        if wanted not in scans:
            raise SettingsError(f"reference must be one of {', '.join(scans)}, got '{reference}'")
    else:
        wanted = min(scans, key=lambda m: (*_coarseness(scans[m]), _BEST_FIRST.index(m)))
    assert wanted is not None
    return _Work(case_id, scans, choice.reasons, wanted)


def _require_outside(out: Path, study: Path) -> None:
    """Refuse to write into the folder of the scans: a prepared image would be taken for a scan the next time."""
    if out.resolve().is_relative_to(study.resolve()):
        raise SettingsError(
            f"out must be another folder than that of the scans, got {out} in {study}; choose a new one"
        )


def _require_free(work: _Work, out: Path) -> None:
    """Refuse to write among the scans, where a prepared image could replace one, or where nothing can be written."""
    folder = (out / work.case_id).resolve()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise CaseError(f"{there} must be a folder that can be written to, got none; choose another one")
    for scan in work.scans.values():
        if folder == scan.path.resolve().parent or folder in scan.path.resolve().parents:
            raise SettingsError(f"out must be another folder than that of the scans, got {out}; choose a new one")


def _named_files(named: Mapping[str, Path], scratch: Path) -> Choice:
    """Files or DICOM folders that the user named one by one."""
    series = []
    for modality, path in named.items():
        if path.is_dir():
            place = scratch / modality
            place.mkdir()
            series += find_series(path, place)
    return choose(series, named)


def _coarseness(scan: Scan) -> tuple[float, float]:
    """Longest edge and volume of a voxel, rounded so that equal sequences tie."""
    return round(max(scan.spacing), 1), round(float(np.prod(scan.spacing)), 1)


def _register(work: _Work) -> None:
    """Find every scan's position relative to the reference."""
    fixed = work.scans[work.reference]
    for modality, scan in work.scans.items():
        if modality != work.reference:
            try:
                found = work.registrations[modality] = register(fixed, scan)
            except RuntimeError as error:  # of SimpleITK
                raise CaseError(f"{scan.path} cannot be registered: {str(error).splitlines()[-1]}") from error
            _LOG.info(
                "%s: %s registered to %s: information %.3f (%.3f before), perturbed start %.1f mm off, Dice %.2f",
                work.case_id, BRATS[modality].short, BRATS[work.reference].short, *found.information, found.apart,
                found.overlap,
            )  # fmt: skip


def _strip(work: _Work, mask: Path | None) -> None:
    """The brain, and the grid of the case around it."""
    whole = grid_of_reference(work.scans[work.reference])
    t1 = next((m for m in ("t1n", "t1c") if m in work.scans), work.reference)
    if "t1n" in work.scans and "t1c" in work.scans:
        t1 = min(("t1n", "t1c"), key=lambda m: _coarseness(work.scans[m]))
    head = _resampled(work, t1, whole)
    if mask is not None:
        found, tool = _given_mask(work, mask, whole), f"mask {mask.name}"
    else:
        if t1 not in ("t1n", "t1c"):
            work.warnings.append(f"the brain was found in {BRATS[t1].short}; deepbet is made for T1")
        found, tool = brain_of(head, whole)
    volume = float(found.sum() * np.prod(whole.spacing) / 1000)
    doubts = doubts_of(found, head, whole, _covered(work, t1, whole))
    work.grid, box = grid_around(whole, found) if found.any() else (whole, (slice(None),) * 3)
    work.brain = Brain(found[box], tool, volume, doubts)


def _resample(work: _Work) -> None:
    """Every scan, skull on, on the case's grid."""
    work.heads = {m: _resampled(work, m, work.grid) for m in work.scans}


def _given_mask(work: _Work, path: Path, grid: Grid) -> NDArray[np.bool_]:
    """The user's mask on the prepared grid. Raises CaseError if it lies on the grid of none of the scans."""
    mask = read_scan(path)
    for modality, scan in work.scans.items():
        if mask.voxels.shape == scan.voxels.shape and np.allclose(mask.affine, scan.affine, atol=0.01):
            share = resample((mask.voxels > 0).astype(np.float32), Grid.of(mask), grid, work.matrix(modality), order=1)
            return np.asarray(share > 0.5)
    raise CaseError(
        f"{path} must lie on the grid of one of the scans, got {mask.voxels.shape}; make it from one of them"
    )


def _resampled(work: _Work, modality: str, grid: Grid) -> NDArray[np.float32]:
    scan = work.scans[modality]
    return resample(scan.voxels, Grid.of(scan), grid, work.matrix(modality))


def _covered(work: _Work, modality: str, grid: Grid) -> NDArray[np.bool_]:
    """Where a scan's own field of view reaches."""
    scan = work.scans[modality]
    ones = np.ones(scan.voxels.shape, np.float32)
    return np.asarray(resample(ones, Grid.of(scan), grid, work.matrix(modality), order=0) > 0)


def _image(work: _Work, modality: str, bias_correction: bool) -> NDArray[np.float32]:
    """One modality on the case's grid, 0 outside the brain."""
    grid, brain, head = work.grid, work.brain, work.heads[modality]
    scan = work.scans[modality]
    covered = _covered(work, modality, grid)
    share = float(covered[brain.mask].mean()) if brain.mask.any() else 1.0
    if share < 0.98:
        work.warnings.append(f"{BRATS[modality].short} covers only {share:.0%} of the brain")
    voxels = _without_bias(head, grid, brain.mask) if bias_correction else head
    least = 1.0 if scan.integer and scan.voxels.min() >= 0 else -np.inf
    return np.where(brain.mask & covered, np.maximum(voxels, least), 0).astype(np.float32)


def _without_bias(voxels: NDArray[np.float32], grid: Grid, brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    """N4 at 4 mm over the brain; its field is applied at full resolution."""
    import SimpleITK as sitk

    image = as_sitk(Scan(Path(), np.maximum(voxels, 0), grid.affine))
    mask = sitk.Cast(as_sitk(Scan(Path(), brain.astype(np.float32), grid.affine)) > 0.5, sitk.sitkUInt8)
    correction = sitk.N4BiasFieldCorrectionImageFilter()
    correction.Execute(sitk.Shrink(image, [4, 4, 4]), sitk.Shrink(mask, [4, 4, 4]))
    field_ = sitk.GetArrayFromImage(correction.GetLogBiasFieldAsImage(image)).T
    return np.asarray(voxels / np.exp(field_), dtype=np.float32)


def _write(work: _Work, images: Mapping[str, NDArray[np.float32]], out: Path, bias_correction: bool) -> PreparedStudy:
    """Write the picture; then, unless something is doubtful, the images and the record."""
    case, grid, brain = work.case_id, work.grid, work.brain
    folder = out / case
    picture, record = folder / f"{case}-prepared.png", folder / f"{case}{SUFFIX}"
    with writable(picture, CaseError, case), replacing(picture) as temporary:
        draw(work.heads, brain.mask, grid.affine, BRATS.long_names, temporary)
    doubts = [f"{BRATS[m].short}: {doubt}" for m, found in work.registrations.items() for doubt in found.doubts]
    doubts += [f"brain: {doubt}" for doubt in brain.doubts]
    if doubts:
        raise CaseError(
            f"case {case}: the preparation is doubtful ({'; '.join(doubts)}); look at {picture}, then give another "
            "reference=… or a mask=…"
        )
    for warning in work.warnings:
        _LOG.warning("case %s: %s", case, warning)
    paths = {m: folder / f"{case}-{m}.nii.gz" for m in images}
    gone = [folder / f"{case}-{m}.nii.gz" for m in _recorded(record) if m not in images]
    mask = folder / f"{case}-brainmask.nii.gz"
    note = _note(work, images, bias_correction)
    with writable(folder, CaseError, case), ExitStack() as stack:  # left in reverse order: the record appears last
        stack.enter_context(replacing(record)).write_text(json.dumps(note, indent=1) + "\n", encoding="utf8")
        for modality, voxels in images.items():
            integer = work.scans[modality].integer
            save_image(stored(voxels, integer), grid, stack.enter_context(replacing(paths[modality])))
        save_image(brain.mask.astype(np.int16), grid, stack.enter_context(replacing(mask)))
        for path in gone:
            path.unlink(missing_ok=True)
    return PreparedStudy(case, folder, paths, record, picture, work.reasons, tuple(work.warnings))


def _recorded(record: Path) -> list[str]:
    """Modalities of an earlier preparation of the case; the image of a scan that is gone would pass for acquired."""
    try:
        return [scan["Modality"] for scan in read_record(record)["Scans"]]
    except (CaseError, KeyError):  # none, or damaged
        return []


def _note(work: _Work, images: Mapping[str, NDArray[np.float32]], bias_correction: bool) -> dict[str, Any]:
    """The record."""
    scans = [
        scan_to(m, scan, work.matrix(m), stored(images[m], scan.integer), work.registrations.get(m))
        for m, scan in work.scans.items()
    ]
    return {
        "CaseID": work.case_id,
        "GeneratedBy": [{"Name": "modfill", "Version": __version__}, *package_versions()],
        "Reference": work.reference,
        "Grid": grid_to(work.grid),
        "Scans": scans,
        "Series": work.reasons,
        "Brain": {
            "Tool": work.brain.tool,
            "Millilitres": round(work.brain.volume, 1),
            "VoxelSHA256": voxel_hash(work.brain.mask),
        },
        "BiasCorrection": bias_correction,
        "Warnings": list(work.warnings),
    }
