"""ModalityCompleter: trained weights, a device, and cases from folders or arrays."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from modfill.cases.finding import Cohort, find_cohort
from modfill.cases.layouts.dataset_json import ChannelCase
from modfill.cases.reading import Case, CaseFiles, case_from_arrays, find_cases, read_case
from modfill.cohort.pipeline import Stages, run_cohort
from modfill.completion import complete_case, prepare_case, samples_needed
from modfill.errors import CaseError, ModfillError, WeightsError, within_memory
from modfill.modalities import modalities_of
from modfill.model.device import device_named, half_is_fast
from modfill.outputs.completed import read_back, take, take_finished
from modfill.outputs.linking import describe, link_acquired, odd_segmentations
from modfill.outputs.naming import OutputFolder, output_folder, output_path
from modfill.outputs.sidecar import make_way, remove_leftovers, sidecar
from modfill.preprocessing.prepare import Prepared
from modfill.results import CaseResult, Completed, Synthesis
from modfill.settings import Mode, Settings
from modfill.weights.checkpoint import SHIPPED, load

__all__ = ["Completed", "ModalityCompleter"]


@dataclass(frozen=True, eq=False)
class Work:
    """A case on its way to the model.

    Attributes:
        case: read and checked.
        done: what an earlier run finished.
        notes: the sidecars of what is to be synthesised.
        prepared: what the model takes; None if there is nothing to be done.
    """

    case: Case
    done: Completed
    notes: dict[str, dict[str, Any]]
    prepared: Prepared | None


class ModalityCompleter:
    """Completes cases with one set of weights.

    Args:
        weights: a file that `modfill train` wrote; None takes the shipped ones.
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", ..., or a `torch.device`.

    Raises:
        WeightsError: the weights cannot be loaded.
        ModfillError: the device does not exist here, or memory does not suffice.
    """

    def __init__(self, weights: str | Path | None = None, device: str | torch.device = "auto"):
        path = SHIPPED if weights is None else Path(weights)
        self.device = device_named(device)
        with within_memory(str(path)):
            model, metadata = load(path)
        untrained = [stage for stage in model.preset.stages if stage not in metadata["stages"].split(",")]
        if untrained:
            raise WeightsError(f"{path} must have every stage trained, got none of {', '.join(untrained)}; train on")
        self.model = model.to(self.device)
        self.weights = {"Preset": model.preset.name, "File": path.name, "SHA256": metadata["sha256"]}

    def inspect(self, path: str | Path, allow_synthetic: bool = False, assume_aligned: bool = False) -> Case:
        """Read and check one case: `.available`, `.missing`, `.unusable`.

        Args:
            path: a folder with one case.
            allow_synthetic: take synthetic images for sources too; the sidecars will say so.
            assume_aligned: place images without orientation codes like those with them, as `read_case` does.

        Raises:
            CaseError: there is no case or more than one, or the case cannot be used at all.
        """
        found = find_cases(Path(path))
        if len(found) != 1:
            raise CaseError(f"{path} must hold one case, got {len(found)}; give one case's folder")
        return read_case(found[0], allow_synthetic, assume_aligned)

    def complete(
        self,
        case: str | Path | Case,
        out: str | Path | OutputFolder | None = None,
        targets: str | Sequence[str] | None = None,
        steps: int | None = None,
        samples: int = 1,
        mode: Mode = "mean",
        seed: int = 0,
        overwrite: bool = False,
        uncertainty: bool = False,
    ) -> Completed:
        """Synthesise what one case lacks.

        Args:
            case: a case folder, or what `inspect` returned.
            out: folder that receives `<case_id>/<case_id>-<modality>.nii.gz` and its sidecar, or an `OutputFolder` that
                names them otherwise; None writes nothing.
            targets: missing modalities, or names of theirs such as "flair"; None takes all.
            steps: diffusion steps; None takes the preset's number, and for the mean one where the network allows it.
            samples: samples that the mean averages where diffusion makes it: with `steps`, or by a network that allows
                no other way. By weights without a refiner, their spread is the uncertainty too.
            mode: "mean" (least error) or "sample" (one plausible image).
            seed: of the noise.
            overwrite: do finished outputs again.
            uncertainty: give, voxel by voxel, the standard deviation to be expected, too.

        Raises:
            CaseError: the case, a target or a setting cannot be used, or the output cannot be written.
            ModfillError: memory does not suffice.
        """
        settings = self._possible(Settings(mode, steps, samples, seed, uncertainty))
        targets = self._known(targets)
        case = case if isinstance(case, Case) else self.inspect(case)
        out = out if out is None or isinstance(out, OutputFolder) else Path(out)
        work = self._begin(case, out, targets, settings, overwrite)
        for synthesis in self._synthesise(work, settings):
            take(work.done, synthesis, out)
        return work.done

    def complete_cohort(
        self,
        cohort: str | Path | Cohort | Sequence[CaseFiles],
        out: str | Path | OutputFolder,
        targets: str | Sequence[str] | None = None,
        settings: Settings | None = None,
        overwrite: bool = False,
        link: bool = False,
        jobs: int = 1,
        allow_synthetic: bool = False,
        naming: str = "brats2023",
        assume_aligned: bool = False,
    ) -> Generator[CaseResult, None, None]:
        """Synthesise what the cases of a cohort lack; yields each case's result when it is done.

        While one case is computed, the next is read and the one before is written. A case that fails does not stop the
        others. Any number of processes, on any number of machines, may work on one output folder: each case is done
        once. Files do not depend on who does them, nor on `jobs`. `cohort.csv` in the folder lists every case.

        Args:
            cohort: a folder or table as for `find_cases`, what `find_cohort` gave, or some of its cases; for cases,
                `naming` cannot be "nnunet" or "auto", which take more from a cohort than its cases.
            out: a folder, or an `OutputFolder` that names outputs in its own way.
            targets: modalities to synthesise where they are missing; None takes all.
            settings: mode, steps, samples, seed and uncertainty; None takes the defaults.
            overwrite: do finished outputs again.
            link: add links to what was acquired, as `link_acquired` does.
            jobs: cases computed at the same time, each on its share of the CPU's threads. Each takes its own memory.
            allow_synthetic: take synthetic images for sources too; the sidecars will say so.
            assume_aligned: place images without orientation codes like those with them, as `read_case` does.
            naming: of outputs in a folder, as `output_folder` has it; a dataset's description is written with them.

        Raises:
            CaseError: no case is found, or a setting cannot be used.
            ModfillError: the folder cannot be written, `naming` does not suit the cohort, or `jobs` is less than 1.
        """
        whole = _whole(cohort, None if isinstance(out, OutputFolder) else naming)
        place = out if isinstance(out, OutputFolder) else output_folder(Path(out), naming, whole)
        chosen, targets = self._possible(settings or Settings()), self._known(targets)

        def read(files: CaseFiles) -> Work:
            case = read_case(files, allow_synthetic, assume_aligned)
            for modality in case.missing:
                remove_leftovers(output_path(place, case.case_id, modality))
            wanted = None if targets is None else [target for target in targets if target in case.missing]
            work = self._begin(case, place, wanted, chosen, overwrite)
            if link:
                carried = files.carried if isinstance(files, ChannelCase) else None
                link_acquired(case, place, files.label, carried, odd_segmentations(files, whole))
            return work

        def compute(work: Work) -> tuple[Completed, list[Synthesis]]:
            return work.done, list(self._synthesise(work, chosen))

        def write(computed: tuple[Completed, list[Synthesis]]) -> Completed:
            done, syntheses = computed
            for synthesis in syntheses:
                take(done, synthesis, place)
                read_back(done, synthesis.modality)
            return done

        results = run_cohort(whole.cases, place, Stages(read, compute, write), jobs)
        if place is not out:
            describe(place, whole)  # once nothing can be refused any more
        return results

    def _possible(self, settings: Settings) -> Settings:
        """The same settings. Raises CaseError for those of which the weights know nothing."""
        if settings.uncertainty and self.model.refiner is None and settings.samples < 2:
            raise CaseError("uncertainty must have two samples or more by weights without a refiner, got "
                            f"{settings.samples}; add --samples 8")  # fmt: skip
        if settings.samples > 1 and samples_needed(self.model, settings) == 1:
            # those that count otherwise: by what the weights do in one step, and without a refiner the spread
            ways = "in mode mean with steps" if self.model.single_step_mean else "in mode mean"
            ways += " or for uncertainty" if self.model.refiner is None else ""
            raise CaseError(f"samples must be 1 here, got {settings.samples}; by these weights more count {ways} only")
        return settings

    def _begin(
        self,
        case: Case,
        out: Path | OutputFolder | None,
        targets: Sequence[str] | None,
        settings: Settings,
        overwrite: bool,
    ) -> Work:
        """What is done of a case, what is to do, and what the model needs for that."""
        if out is not None:
            make_way(case, out, overwrite)
        done = Completed(case.case_id)
        precision = "bfloat16" if half_is_fast(self.device) else "float32"
        notes = {}
        for target in self._targets(case, targets):
            path = None if out is None else output_path(out, case.case_id, target)
            note = sidecar(case, target, settings, self.weights, precision, path)
            if path is None or overwrite or not take_finished(done, target, path, note):
                notes[target] = note
        with within_memory(f"case {case.case_id}"):
            return Work(case, done, notes, prepare_case(case, self.model.preset) if notes else None)

    def _synthesise(self, work: Work, settings: Settings) -> Iterator[Synthesis]:
        if work.prepared is not None:
            with within_memory(f"case {work.case.case_id}"):
                yield from complete_case(work.case, work.prepared, self.model, work.notes, settings)

    def _known(self, targets: str | Sequence[str] | None) -> tuple[str, ...] | None:
        """The modalities that targets name. Raises CaseError for a name that is none of the weights'."""
        wanted = None if targets is None else modalities_of(targets, "a target")
        for target in wanted or ():
            if target not in (known := self.model.preset.modalities):
                raise CaseError(
                    f"a target must be one of the weights' {', '.join(known)}, got '{target}'; leave it out"
                )
        return wanted

    def _targets(self, case: Case, targets: Sequence[str] | None) -> tuple[str, ...]:
        """The modalities to synthesise, each once. Raises CaseError for one that is not missing or not known."""
        known = self.model.preset.modalities
        wanted = case.missing if targets is None else targets
        for target in wanted:
            if target not in case.missing or target not in known:
                choice = ", ".join(m for m in case.missing if m in known) or "none is"
                raise CaseError(
                    f"case {case.case_id}: a target must be missing ({choice}), got '{target}'; leave it out"
                )
        return tuple(dict.fromkeys(wanted))

    def complete_arrays(
        self,
        arrays: Mapping[str, npt.NDArray],
        affine: npt.ArrayLike,
        case_id: str = "case",
        *,
        targets: str | Sequence[str] | None = None,
        steps: int | None = None,
        samples: int = 1,
        mode: Mode = "mean",
        seed: int = 0,
    ) -> dict[str, npt.NDArray]:
        """Arrays in, arrays out, nothing on disk. Provenance and uncertainty are left out; `complete` gives them.

        Args:
            arrays: (X, Y, Z) by modality, or a name of it such as "flair", 0 outside the brain.
            affine: 4x4, voxel indices to mm.
            case_id: part of the seed.
            targets, steps, samples, mode, seed: as in `complete`.

        Returns:
            The synthesised modalities, (X, Y, Z), in the type of their nearest source (float32 unless integer).

        Raises:
            CaseError: as `complete`.
        """
        self._possible(Settings(mode, steps, samples, seed))
        targets = self._known(targets)
        done = self.complete(case_from_arrays(arrays, affine, case_id), None, targets, steps, samples, mode, seed)
        return {modality: np.asarray(image.dataobj) for modality, image in done.images.items()}


def _whole(cohort: str | Path | Cohort | Sequence[CaseFiles], naming: str | None) -> Cohort:
    """The cohort that was given or found. Raises ModfillError for cases alone if the naming needs more than them."""
    if isinstance(cohort, Cohort):
        return cohort
    if isinstance(cohort, str | Path):
        return find_cohort(cohort)
    if naming in ("nnunet", "auto"):
        raise ModfillError(
            f"naming '{naming}' must have the whole cohort, which tells the channels' order, got a list of cases; "
            "give the folder, what find_cohort gave, or an OutputFolder"
        )
    return Cohort("folders", list(cohort))
