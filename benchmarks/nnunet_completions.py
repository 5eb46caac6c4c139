"""Completions of nnU-Net's training cases: every missing set of each case made once, kept on disk, drawn in training.

`RandomModalityDropout` and then `CompleteModalities`, as the integrations have them, complete a case on its own grid
before anything else is done to it. So do these: the completed case passes nnU-Net's cropping, z-scores and resampling
like a case in a test, and the result is kept. nnU-Net draws its patches from it and augments them afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from benchmarks.filling import drawn_missing, missing_sets
from modfill.atomic import replacing
from modfill.cases.reading import Case
from modfill.modalities import MODALITIES

FOLDER = "completions"  # in nnU-Net's folder of the preprocessed dataset
CONFIGURATION = "3d_fullres"

Fill = Callable[[Case, tuple[str, ...]], np.ndarray]
"""Gives volumes (M, X, Y, Z) of a complete case, with those of a missing set replaced by completions."""


class CompletedDataset(nnUNetDatasetBlosc2):
    """nnU-Net's preprocessed cases; in each case that it loads, random modalities are replaced by completions."""

    def load_case(self, identifier: str) -> tuple:
        """As nnU-Net's: data (M, X, Y, Z), segmentation, that of a former stage, properties."""
        data, *rest = super().load_case(identifier)
        missing = drawn_missing()
        if missing:
            data = np.array(data[:])
            with np.load(_path(Path(self.source_folder).parent / FOLDER, identifier, missing)) as stored:
                data[[MODALITIES.index(m) for m in missing]] = stored["channels"]
        return data, *rest


def write_completions(
    cases: Sequence[Case], fill: Fill, made_by: str, *, plans: dict, description: dict, dataset: Path
) -> None:
    """Complete and preprocess every missing set of every case that is not there yet.

    Args:
        cases: as nnU-Net has preprocessed them.
        fill: completes.
        made_by: names the weights, SHA-256.
        plans: of nnU-Net.
        description: its dataset.json.
        dataset: its folder of the preprocessed dataset; receives `completions/<case_id>-<missing>.npz` with `channels`,
            float16 (missing, X, Y, Z) on nnU-Net's grid.

    Raises:
        ValueError: the folder holds completions by other weights.
    """
    folder = dataset / FOLDER
    folder.mkdir(exist_ok=True)
    marker = folder / "weights.sha256"
    if marker.exists() and marker.read_text() != made_by:
        raise ValueError(f"{folder} must hold completions by the weights {made_by[:8]}…, got those of "
                         f"{marker.read_text()[:8]}…; give another --run")  # fmt: skip
    marker.write_text(made_by)
    for case in cases:
        for missing in missing_sets():
            path = _path(folder, case.case_id, missing)
            if not path.exists():
                channels = _preprocessed(case, fill(case, missing), plans, description)
                kept = channels[[MODALITIES.index(m) for m in missing]].astype(np.float16)
                with replacing(path) as temporary, temporary.open("wb") as file:
                    np.savez_compressed(file, channels=kept)
        print(f"{case.case_id}: completions", flush=True)


def _preprocessed(case: Case, volumes: np.ndarray, plans: dict, description: dict) -> np.ndarray:
    """Volumes (M, X, Y, Z) on the case's grid -> z-scored on nnU-Net's grid of the complete case, (M, ...)."""
    complete = np.stack([case.volume(m) for m in MODALITIES])
    outside = complete.any(0) & ~volumes.any(0)
    volumes = np.where(outside, np.finfo(np.float32).tiny, volumes)  # nnU-Net crops to what is not 0: the same box
    spacing = nib.affines.voxel_sizes(case.images[MODALITIES[0]].affine)
    manager = PlansManager(plans)
    configuration = manager.get_configuration(CONFIGURATION)
    preprocessor = configuration.preprocessor_class(verbose=False)
    properties = {"spacing": [float(edge) for edge in reversed(spacing)]}
    given = volumes.transpose(0, 3, 2, 1)  # nnU-Net's order of the axes
    return np.asarray(preprocessor.run_case_npy(given, None, properties, manager, configuration, description)[0])


def _path(folder: Path, case_id: str, missing: Sequence[str]) -> Path:
    return folder / f"{case_id}-{'+'.join(missing)}.npz"
