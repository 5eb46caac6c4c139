"""Which modality each series of a study is, by its name and its sequence's parameters, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modfill.cases.filenames import is_native_word, is_segmentation, nifti_stem
from modfill.cases.nifti import Unusable, read_header
from modfill.errors import CaseError
from modfill.modalities import BRATS
from modfill.prepare.finding import Series
from modfill.prepare.names import is_other, is_scout, modality_in, patients_apart, words_of

__all__ = ["Choice", "Verdict", "choose", "recognise"]

_LEAST_SLICES = 8  # fewer are a localiser, or a slab
_LONG_TE, _LONG_TR, _LONG_TI = 0.06, 1.8, 1.4  # s: T2 weighting, and suppressed fluid
_SHORT_TE = 0.035  # s: T1 weighting


@dataclass(frozen=True)
class Verdict:
    """The modality of a series, with the reason.

    Attributes:
        modality: None if it is none of the case's.
        reason: why, in words.
        doubtful: whether the user must decide: its name and its parameters contradict each other, or neither says
            anything.
    """

    modality: str | None
    reason: str
    doubtful: bool = False


@dataclass(frozen=True)
class Choice:
    """The series of a case.

    Attributes:
        series: by modality.
        reasons: for every series of the study, by its source and name.
    """

    series: dict[str, Series]
    reasons: dict[str, str]


def recognise(series: Series) -> Verdict:
    """Tell a series' modality from its name and header."""
    try:
        if other := _not_anatomical(series):
            return Verdict(None, other)
    except Unusable as problem:  # it may be an acquired image of a modality, which must not pass for missing
        return Verdict(None, str(problem), True)
    name, from_name = _by_name(series.name)
    parameters, from_header = _by_parameters(series.header)
    agent = series.header.get("ContrastBolusAgent") or series.header.get("ContrastBolusIngredient")
    if name is None and parameters is None:
        return Verdict(None, "neither its name nor its parameters say what it is", True)
    base = {"t1c": "t1n"}
    if name and parameters and base.get(name, name) != parameters:
        return Verdict(
            None,
            f"its name says {BRATS[name].short} ({from_name}), its parameters {BRATS[parameters].short} "
            f"({from_header})",
            True,
        )
    found = name or parameters
    reason = ", ".join(part for part in (from_name, from_header) if part)
    if found == "t1n" and agent and str(agent).lower() not in ("none", "no", "0"):
        if name and any(is_native_word(word) for word in words_of(series.name)):
            return Verdict(None, f"its name says no contrast agent, its header {agent}", True)
        return Verdict("t1c", f"{reason}, contrast agent {agent}")
    return Verdict(found, reason)


def choose(all_series: Sequence[Series], named: Mapping[str, Path], *, ignore_unexplained: bool = False) -> Choice:
    """One series for each modality that the study has.

    Of several series of one modality that with the smallest voxels' longest edge counts.

    Args:
        all_series: of the study.
        named: sources that the user named, by modality; they are not questioned.
        ignore_unexplained: leave out doubtful series although a modality is missing.

    Raises:
        CaseError: a series is doubtful and could be a modality that is missing, two are equally good, or the series
            are of several patients.
    """
    found: dict[str, list[Series]] = {m: [] for m in BRATS.names}
    reasons, doubtful = {}, []
    for series in all_series:
        key = _key(series)
        if any(_same(series, path) for path in named.values()):
            continue
        verdict = recognise(series)
        reasons[key] = f"{BRATS[verdict.modality].short if verdict.modality else 'left out'}: {verdict.reason}"
        if verdict.modality and verdict.modality not in named:
            found[verdict.modality].append(series)
        elif verdict.doubtful:
            doubtful.append((key, verdict.reason))
    _require_one_patient([series for several in found.values() for series in several])
    chosen: dict[str, Series] = {}
    for modality in BRATS.names:
        if modality in named:
            chosen[modality] = _named(modality, named[modality], all_series)
            reasons[_key(chosen[modality])] = f"{BRATS[modality].short}: named by the user"
        elif found[modality]:
            chosen[modality] = _best(modality, found[modality], reasons)
    if doubtful and len(chosen) < len(BRATS.names) and not ignore_unexplained:
        missing = ", ".join(BRATS[m].short for m in BRATS.names if m not in chosen)
        key, reason = doubtful[0]
        raise CaseError(
            f"{key} may be one of {missing}: {reason}; name the files (t1=FILE, …), or leave it out with "
            "ignore_unexplained=True"
        )
    if not chosen:
        listed = "; ".join(f"{key}: {reason}" for key, reason in reasons.items())
        raise CaseError(f"no series is T1, T1ce, T2 or FLAIR, got {listed}; name the files (t1=FILE, …)")
    return Choice(chosen, reasons)


def _require_one_patient(all_series: Sequence[Series]) -> None:
    """Raise CaseError if names or sidecars of NIfTI files say that they are of several patients or studies."""
    files = [series for series in all_series if nifti_stem(series.source.name) is not None]
    stating = [series.source.name for series in files if modality_in(series.name)]
    apart = patients_apart(stating)
    for key in ("PatientID", "StudyInstanceUID"):
        known = {str(series.header[key]): series.source.name for series in files if series.header.get(key)}
        apart = apart or (sorted(known.values()) if len(known) > 1 else [])
    if apart:
        raise CaseError(
            f"{files[0].source.parent} must hold one study, got {apart[0]} and {apart[1]}, of {len(apart)} patients or "
            "studies; give each its own folder, or name the files of one (t1=FILE, …)"
        )


def _not_anatomical(series: Series) -> str | None:
    """Why a series is none of the case's modalities, or None."""
    kind = [str(word).upper() for word in series.header.get("ImageType", ())]
    if "LOCALIZER" in kind or is_scout(series.name):
        return "a localiser"
    if is_segmentation(series.name):
        return "a segmentation or mask, by its name"
    if series.header.get("DiffusionBValue") or is_other(series.name):
        return "another sequence or a map"
    if "DERIVED" in kind and not {"MPR", "NORM", "DIS2D", "DIS3D"} & set(kind):
        return "derived from other images"
    shape = read_header(series.path).get_data_shape()
    if len(shape) > 3 and max(shape[3:]) > 1:
        return f"{'x'.join(map(str, shape))} voxels: a series of volumes"
    if len(shape) < 3:
        return f"{'x'.join(map(str, shape))} voxels: a single slice"
    if min(shape[:3]) < _LEAST_SLICES:
        return f"{min(shape[:3])} slices only"
    return None


def _by_name(name: str) -> tuple[str | None, str]:
    """The modality that a name states, and the name."""
    found = modality_in(name)
    return found, f"named '{name}'" if found else ""


def _by_parameters(header: Mapping[str, Any]) -> tuple[str | None, str]:
    """The weighting by echo, repetition and inversion time in seconds; T1ce counts as T1 here."""
    te, tr, ti = (_number(header.get(key)) for key in ("EchoTime", "RepetitionTime", "InversionTime"))
    if te is None:
        return None, ""
    stated = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in (("TE", te), ("TR", tr), ("TI", ti)) if value)
    if ti is not None and ti >= _LONG_TI and te >= _LONG_TE:
        return "t2f", stated
    if te >= _LONG_TE and (tr is None or tr >= _LONG_TR) and not ti:
        return "t2w", stated
    if te <= _SHORT_TE and ((tr is not None and tr < 1.2) or (ti is not None and ti < _LONG_TI)):
        return "t1n", stated
    return None, ""


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _best(modality: str, candidates: Sequence[Series], reasons: dict[str, str]) -> Series:
    """The series with the finest resolution. Raises CaseError if two are equally fine."""
    if len(candidates) == 1:
        return candidates[0]
    graded = sorted(((_coarseness(series), number) for number, series in enumerate(candidates)))
    first, second = (candidates[number] for _, number in graded[:2])
    if np.allclose(graded[0][0], graded[1][0], rtol=0.02):
        raise CaseError(
            f"{BRATS[modality].short} must be one series, got {_key(first)} and {_key(second)} with the same voxels; "
            f"name the one to take"
        )
    for series in candidates:
        if series is not first:
            reasons[_key(series)] = f"left out: {BRATS[modality].short} too, but {_key(first)} has smaller voxels"
    return first


def _coarseness(series: Series) -> tuple[float, float]:
    spacing = np.asarray(read_header(series.path).get_zooms()[:3], dtype=float)
    return float(np.round(spacing.max(), 2)), float(np.round(spacing.prod(), 3))


def _named(modality: str, path: Path, all_series: Sequence[Series]) -> Series:
    """The series at a path that the user named. Raises CaseError if there are several."""
    inside = [series for series in all_series if _same(series, path)]
    if len(inside) > 1:
        raise CaseError(f"{path} must be one series for {BRATS[modality].short}, got {len(inside)}; name a subfolder")
    return inside[0] if inside else Series(path, path, path.name)


def _same(series: Series, path: Path) -> bool:
    return series.source.resolve() == path.resolve()


def _key(series: Series) -> str:
    name = series.source.name
    return name if name == series.name else f"{name} ('{series.name}')"
