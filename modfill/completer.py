"""ModalityCompleter: trained weights on a device, and cases from folders, files or arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from modfill.cases.files import CaseFiles, Cohort, id_problem
from modfill.cases.finding import case_of_files, find_case, find_cohort
from modfill.cases.reading import Case, case_from_arrays
from modfill.cohort.dataset import begin_description, finish_description
from modfill.cohort.locks import case_locked
from modfill.cohort.parts import Part
from modfill.cohort.pipeline import CohortResults, run_cohort
from modfill.completion import Completion, Progress
from modfill.errors import SettingsError
from modfill.modalities import ModalitySet
from modfill.outputs.linking import Links
from modfill.outputs.naming import Naming, OutputFolder, output_folder
from modfill.results import Completed
from modfill.settings import Settings, without_uncertainty
from modfill.weights.networks import Networks

if TYPE_CHECKING:
    import torch

__all__ = ["ModalityCompleter"]


class ModalityCompleter:
    """Completes cases with one set of weights. The networks are loaded when the first case needs them.

    Args:
        weights: a file that `modfill train` wrote; None takes the shipped ones.
        device: "auto" (a CUDA GPU where there is one), "cpu", "cuda", "cuda:1", "mps", "gpu", or a `torch.device`.
        settings: mode, steps, samples, seed and uncertainty of each call that names none.

    Raises:
        WeightsError: the weights cannot be read.
        SettingsError: the device does not exist here.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        device: str | torch.device = "auto",
        settings: Settings | None = None,
    ):
        self.networks = Networks(weights, device)
        self.settings = settings or Settings()

    @property
    def modality_set(self) -> ModalitySet:
        """The modalities that the weights know."""
        return self.networks.modality_set

    def __repr__(self) -> str:
        file = self.networks.file
        return f"<ModalityCompleter {file.path.name} ({file.preset.name}, {file.sha256[:8]}), {self.settings}>"

    def complete(
        self,
        case: str | Path | Mapping[str, str | Path] | CaseFiles | Case,
        *,
        out: str | Path | OutputFolder | None = None,
        targets: str | Sequence[str] | None = None,
        settings: Settings | None = None,
        overwrite: bool = False,
        allow_synthetic: bool = False,
        assume_aligned: bool = False,
        progress: Progress | None = None,
    ) -> Completed:
        """Synthesise what one case lacks.

        With `out`, the case is locked against other processes, as in `complete_cohort`. A second call waits for the
        first one, and takes what it has finished.

        Args:
            case: a case folder; files by modality, or by any name of it such as "flair"; or what `inspect` returned.
            out: folder that receives `<case_id>/<case_id>-<modality>.nii.gz` and its sidecar, or an `OutputFolder` that
                names them otherwise; None writes nothing.
            targets: missing modalities, or names of theirs such as "flair"; None takes all.
            settings: mode, steps, samples, seed and uncertainty; None takes the completer's.
            overwrite: do finished outputs again.
            allow_synthetic: use synthetic images as sources too; recorded in the sidecars.
            assume_aligned: place images without orientation codes like those with them, as `read_case` does.
            progress: called with a step's name and the share of the case that is done, from 0 to 1.

        Raises:
            CaseError: the case or a target cannot be used, or the output cannot be written.
            WeightsError: the weights are damaged.
            ModfillError: memory does not suffice.
        """
        folder = OutputFolder(Path(out), modality_set=self.modality_set) if isinstance(out, str | Path) else out
        completion = Completion(
            self.networks,
            settings or self.settings,
            out=folder,
            targets=targets,
            overwrite=overwrite,
            allow_synthetic=allow_synthetic,
            assume_aligned=assume_aligned,
            progress=progress,
        )
        if isinstance(case, Mapping):
            case = case_of_files(case, modality_set=self.modality_set)
        files = find_case(case, modality_set=self.modality_set) if isinstance(case, str | Path) else case
        if folder is None or _is_refused(files):
            return completion(files)
        with case_locked(folder.path, files.case_id):
            return completion(files)

    def complete_arrays(
        self,
        arrays: Mapping[str, npt.NDArray[Any]],
        *,
        affine: npt.ArrayLike,
        case_id: str = "case",
        targets: str | Sequence[str] | None = None,
        settings: Settings | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """Arrays in, arrays out, nothing on disk. `complete` gives provenance and uncertainty too.

        Args:
            arrays: (X, Y, Z) by modality, or by any name of it such as "flair", 0 outside the brain.
            affine: 4x4, voxel indices to mm.
            case_id: part of the seed.
            targets: as in `complete`.
            settings: as in `complete`.

        Returns:
            The synthesised modalities, (X, Y, Z), in the type of their nearest source (float32 unless integer).

        Raises:
            ModfillError: as `complete`; SettingsError if the settings ask for uncertainty, which arrays cannot carry.
        """
        plain = without_uncertainty(settings or self.settings)
        done = self.complete(
            case_from_arrays(arrays, affine, case_id, self.modality_set), targets=targets, settings=plain
        )
        return {modality: np.asarray(image.dataobj) for modality, image in done.images.items()}

    def complete_cohort(
        self,
        cohort: str | Path | Cohort | Sequence[CaseFiles],
        *,
        out: str | Path | OutputFolder,
        targets: str | Sequence[str] | None = None,
        settings: Settings | None = None,
        naming: Naming | Literal["auto"] = "brats2023",
        link: bool = False,
        overwrite: bool = False,
        allow_synthetic: bool = False,
        assume_aligned: bool = False,
        jobs: int = 1,
        shard: str = "1/1",
        progress: Progress | None = None,
    ) -> CohortResults:
        """Synthesise what the cases of a cohort lack; gives each case's result when it is done.

        While one case is computed, the next is read and the one before is written. A case that fails does not stop the
        others. Any number of processes, on any number of machines, may work on one output folder: each case is done
        once. Files do not depend on who does them, nor on `jobs`. `cohort.csv` in the folder lists every case.

        Args:
            cohort: a folder or table as for `find_cohort`, what `find_cohort` gave, or some of its cases; for cases,
                `naming` cannot be "nnunet" or "auto", which take more from a cohort than its cases.
            out: a folder, or an `OutputFolder` that names outputs in its own way.
            targets: modalities to synthesise where they are missing; None takes all.
            settings: mode, steps, samples, seed and uncertainty; None takes the completer's.
            naming: of outputs in a folder, as `output_folder` has it. The description of a BIDS dataset is written at
                once, nnU-Net's dataset.json when all cases of the cohort are complete, those of other shards too.
            link: add links to what was acquired.
            overwrite: do finished outputs again.
            allow_synthetic: use synthetic images as sources too; recorded in the sidecars.
            assume_aligned: place images without orientation codes like those with them, as `read_case` does.
            jobs: cases computed at the same time, each on its share of the CPU's threads. Each takes its own memory.
            shard: the part of the cases to complete, e.g. "3/16" for the third of 16 equal parts.
            progress: as in `complete`; of several jobs, the calls are mixed.

        Returns:
            An iterator over `CaseResult`, with `to_frame()` for a pandas table of all.

        Raises:
            CaseError: no case is found.
            SettingsError: a setting cannot be used, `naming` does not suit the cohort, or `jobs` is less than 1.
            ModfillError: the folder cannot be written, or `shard` is none of 1/N to N/N.
        """
        part = Part.parse(shard)
        whole = self._whole(cohort, None if isinstance(out, OutputFolder) else naming)
        folder = out if isinstance(out, OutputFolder) else output_folder(Path(out), naming, whole)
        completion = Completion(
            self.networks,
            settings or self.settings,
            out=folder,
            targets=targets,
            overwrite=overwrite,
            allow_synthetic=allow_synthetic,
            assume_aligned=assume_aligned,
            in_cohort=True,
            links=Links(folder, whole) if link else None,
            progress=progress,
        )
        found = part.of(whole.cases)
        if folder is out:  # an `OutputFolder` gets no description
            return run_cohort(found, folder, completion, jobs=jobs)
        finish = partial(finish_description, folder, whole, linked=link)
        results = run_cohort(found, folder, completion, jobs=jobs, finish=finish)
        begin_description(folder, whole, linked=link)  # after `run_cohort` has checked the folder and the settings
        return results

    def _whole(self, cohort: str | Path | Cohort | Sequence[CaseFiles], naming: str | None) -> Cohort:
        """The cohort that was given or found. Raises SettingsError for cases alone if the naming needs more."""
        if isinstance(cohort, Cohort):
            return cohort
        if isinstance(cohort, str | Path):
            return find_cohort(cohort, modality_set=self.modality_set)
        if naming in ("nnunet", "auto"):
            raise SettingsError(
                f"naming '{naming}' must have the whole cohort, which gives the channels' order, got a list of cases; "
                "give the folder, what find_cohort gave, or an OutputFolder"
            )
        return Cohort("folders", list(cohort), modality_set=self.modality_set)


def _is_refused(files: CaseFiles | Case) -> bool:
    """Return whether a case is refused before anything is written, so that it needs no lock."""
    return id_problem(files.case_id) is not None or (isinstance(files, CaseFiles) and files.problem is not None)
