"""ModalityCompleter: trained weights, a device, and cases from folders or arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch

from modfill.case import Case, case_from_arrays, find_cases, read_case
from modfill.checkpoint import SHIPPED, load
from modfill.completion import Synthesis, complete_case, half_is_fast
from modfill.errors import CaseError, ModfillError, WeightsError
from modfill.provenance import Settings, finished, output_path, sidecar, uncertainty_path, write

__all__ = ["Completed", "ModalityCompleter"]


@dataclass(eq=False)
class Completed:
    """What a completion gave, by synthesised modality; all empty when nothing was missing.

    Attributes:
        case_id: name of the case.
        images: synthetic images on the case's grid.
        paths: where they were written; empty without an output folder.
        provenance: their sidecars.
        uncertainty: voxelwise standard deviation of the samples, in the image's intensities, with two samples or more.
        skipped: modalities that were finished before and were not done again.
    """

    case_id: str
    images: dict[str, nib.Nifti1Image] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    uncertainty: dict[str, nib.Nifti1Image] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


class ModalityCompleter:
    """Completes cases with one set of weights.

    Args:
        weights: a file that `modfill train` wrote; None takes the shipped ones.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", ...

    Raises:
        WeightsError: the weights cannot be loaded.
        ModfillError: the device does not exist here.
    """

    def __init__(self, weights: str | Path | None = None, device: str = "auto"):
        path = SHIPPED if weights is None else Path(weights)
        self.device = _device(device)
        model, metadata = load(path)
        untrained = [stage for stage in model.preset.stages if stage not in metadata["stages"].split(",")]
        if untrained:
            raise WeightsError(f"{path} must have every stage trained, got none of {', '.join(untrained)}; train on")
        self.model = model.to(self.device)
        self.weights = {"Preset": model.preset.name, "File": path.name, "SHA256": metadata["sha256"]}

    def inspect(self, path: str | Path) -> Case:
        """Read and check one case: `.available`, `.missing`, `.unusable`.

        Args:
            path: a folder with one case.

        Raises:
            CaseError: there is no case or more than one, or the case cannot be used at all.
        """
        found = find_cases(Path(path))
        if len(found) != 1:
            raise CaseError(f"{path} must hold one case, got {len(found)}; give one case's folder")
        return read_case(found[0])

    def complete(
        self,
        case: str | Path | Case,
        out: str | Path | None = None,
        targets: Sequence[str] | None = None,
        steps: int | None = None,
        samples: int = 1,
        mode: str = "mean",
        seed: int = 0,
        overwrite: bool = False,
    ) -> Completed:
        """Synthesise what one case lacks.

        Args:
            case: a case folder, or what `inspect` returned.
            out: folder that receives `<case_id>/<case_id>-<modality>.nii.gz` and its sidecar; None writes nothing.
            targets: missing modalities; None takes all.
            steps: diffusion steps; None takes the preset's number, and for the mean one where the network allows it.
            samples: samples drawn; two or more give an uncertainty map.
            mode: "mean" (least error) or "sample" (one plausible image).
            seed: of the noise.
            overwrite: do finished outputs again.

        Raises:
            CaseError: the case, a target or a setting cannot be used, or the output cannot be written.
        """
        settings = Settings(mode, steps, samples, seed)
        case = case if isinstance(case, Case) else self.inspect(case)
        done = Completed(case.case_id)
        precision = "bfloat16" if half_is_fast(self.device) else "float32"
        notes = {t: sidecar(case, t, settings, self.weights, precision) for t in self._targets(case, targets)}
        if out is not None and not overwrite:
            for target, note in list(notes.items()):
                if _take_finished(done, target, output_path(Path(out), case.case_id, target), note):
                    del notes[target]
        if notes:
            for synthesis in complete_case(case, self.model, notes, settings):
                _take(done, synthesis, Path(out) if out is not None else None)
        return done

    def _targets(self, case: Case, targets: Sequence[str] | None) -> tuple[str, ...]:
        """The modalities to synthesise, each once. Raises CaseError for one that is not missing or not known."""
        known = self.model.preset.modalities
        wanted = (targets,) if isinstance(targets, str) else case.missing if targets is None else targets
        for target in wanted:
            if target not in case.missing or target not in known:
                choice = ", ".join(m for m in case.missing if m in known) or "none is"
                raise CaseError(
                    f"case {case.case_id}: a target must be missing ({choice}), got '{target}'; leave it out"
                )
        return tuple(dict.fromkeys(wanted))

    def complete_arrays(
        self, arrays: Mapping[str, npt.NDArray], affine: npt.ArrayLike, case_id: str = "case", **settings: Any
    ) -> dict[str, npt.NDArray]:
        """Arrays in, arrays out, nothing on disk.

        Args:
            arrays: (X, Y, Z) by modality, 0 outside the brain.
            affine: 4x4, voxel indices to mm.
            case_id: part of the seed.
            **settings: targets, steps, samples, mode, seed as in `complete`.

        Returns:
            The synthesised modalities, (X, Y, Z), in the type of their nearest source (float32 unless integer).

        Raises:
            CaseError: as `complete`.
        """
        done = self.complete(case_from_arrays(arrays, affine, case_id), **settings)
        return {modality: np.asarray(image.dataobj) for modality, image in done.images.items()}


def _take(done: Completed, synthesis: Synthesis, out: Path | None) -> None:
    """Take over what has just been synthesised, and write it."""
    modality = synthesis.modality
    done.images[modality], done.provenance[modality] = synthesis.image, synthesis.provenance
    if synthesis.uncertainty is not None:
        done.uncertainty[modality] = synthesis.uncertainty
    if out is not None:
        path = output_path(out, done.case_id, modality)
        images = {path: synthesis.image}
        if synthesis.uncertainty is not None:
            images[uncertainty_path(path)] = synthesis.uncertainty
        write(images, synthesis.provenance, path)
        done.paths[modality] = path


def _take_finished(done: Completed, modality: str, path: Path, note: dict[str, Any]) -> bool:
    """Take over an output that an earlier run finished; returns whether there is one."""
    former = finished(path, note)
    if former is None:
        return False
    done.images[modality], done.paths[modality] = nib.Nifti1Image.from_filename(path), path
    done.provenance[modality] = former
    if uncertainty_path(path).exists():
        done.uncertainty[modality] = nib.Nifti1Image.from_filename(uncertainty_path(path))
    done.skipped += (modality,)
    return True


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModfillError(f"device must be auto, cpu or a GPU of this machine, got '{name}' ({reason})") from error
    return device
