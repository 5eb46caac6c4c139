"""The way of a case, step by step: prepare, encode, translate and denoise, decode and refine, restore, mark."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch

from modfill.cases.brain import partial_coverage
from modfill.cases.marks import voxel_hash
from modfill.cases.nifti import PLACE
from modfill.cases.reading import Case, require_usable
from modfill.errors import CaseError
from modfill.modalities import nearest_source
from modfill.model.config import Preset
from modfill.model.device import fast_precision
from modfill.model.sampling import generator
from modfill.model.synthesiser import Prediction, Synthesiser
from modfill.outputs.sidecar import marked
from modfill.preprocessing.prepare import IntensityScale, Prepared, prepare
from modfill.results import Synthesis
from modfill.settings import Settings

_LOG = logging.getLogger("modfill")


def prepare_case(case: Case, preset: Preset) -> Prepared:
    """What of the way comes before the model: normalised volumes on its grid.

    A source that covers only part of the brain is left out, with a warning: the model would take its zeros for tissue.

    Raises:
        CaseError: the case has an unusable image or too small a brain.
    """
    require_usable(case)
    partial = partial_coverage({modality: case.volume(modality) for modality in case.available})
    for modality, share in partial.items():
        _LOG.warning("case %s: %s covers only %.0f%% of the brain; left out", case.case_id, modality, 100 * share)
    return prepare(case, preset.multiple, preset.normalisation, leave_out=partial)


@torch.inference_mode()
def complete_case(
    case: Case, prepared: Prepared, model: Synthesiser, notes: Mapping[str, dict[str, Any]], settings: Settings
) -> Iterator[Synthesis]:
    """Synthesise the targets one after the other from all that is available.

    Args:
        case: a checked case.
        prepared: the same, as `prepare_case` gives it.
        model: in evaluation mode, on any device.
        notes: the sidecar by target, a missing modality each; `UnitRange`, `ExpectedPSNR`, `VoxelSHA256` and, where
            a source covers only part of the brain, `SourcesLeftOut` are added here.
        settings: mode, steps, samples, seed, and whether uncertainty is wanted.

    Raises:
        CaseError: what comes out is not finite.
    """
    preset, device = model.preset, model.latent_std.device
    volumes = {modality: torch.from_numpy(volume).to(device) for modality, volume in prepared.volumes.items()}
    with fast_precision(device):
        encoded = model.encode(volumes, torch.from_numpy(prepared.brain).to(device))
    left_out = [modality for modality in case.available if modality not in prepared.volumes]
    count = samples_needed(model, settings)
    for target in notes:
        index = preset.modalities.index(target)
        drawn = draw_noise(encoded.latents.shape[1:], case.case_id, target, settings.seed, count)
        with fast_precision(device):
            prediction = model.predict(encoded, index, drawn.to(device), settings.steps, settings.mode)
        if not _finite(prediction):
            raise CaseError(f"case {case.case_id}: a synthesised {target} must be finite, got NaN or infinity; "
                            "check the intensities of its sources")  # fmt: skip
        like = prepared.scales[nearest_source(target, tuple(prepared.volumes))]
        scale = output_scale(like, expected_brightness(prepared, model, target))
        image = restore_image(case, target, scale, prediction.volume.cpu().numpy(), prepared, preset.normalisation)
        uncertainty = None
        if settings.uncertainty and (deviation := prediction.deviation) is not None:
            uncertainty = restore_deviation(
                case, target, scale, deviation.cpu().numpy(), prepared, preset.normalisation
            )
        found: dict[str, Any] = {"UnitRange": [scale.low, scale.high]}
        if device.type == "cpu":
            found["Threads"] = torch.get_num_threads()  # another number may change the last bit
        if left_out:
            found["SourcesLeftOut"] = left_out
        if prediction.expected_psnr is not None:
            found["ExpectedPSNR"] = round(prediction.expected_psnr, 2)
        found["VoxelSHA256"] = voxel_hash(np.asanyarray(image.dataobj))
        yield Synthesis(target, image, uncertainty, notes[target] | found)


def _finite(prediction: Prediction) -> bool:
    """Whether all that is given out of a prediction, or goes into it, is a number."""
    volumes = (prediction.volume, prediction.sample_std, prediction.expected_squared_error)
    finite = all(bool(volume.isfinite().all()) for volume in volumes if volume is not None)
    return finite and math.isfinite(prediction.expected_psnr or 0)


def samples_needed(model: Synthesiser, settings: Settings) -> int:
    """Samples on which the answer depends: all that the mean averages, or whose spread is the uncertainty; else one."""
    averaged = settings.mode == "mean" and not (model.single_step_mean and settings.steps is None)
    spread = settings.uncertainty and model.refiner is None
    return settings.samples if averaged or spread else 1


def draw_noise(shape: Sequence[int], case_id: str, target: str, seed: int, samples: int) -> torch.Tensor:
    """Standard normal noise (samples, *shape) that depends on seed, case, target and sample only."""
    return torch.stack([torch.randn(*shape, generator=generator(seed, case_id, target, n)) for n in range(samples)])


def expected_brightness(prepared: Prepared, model: Synthesiser, target: str) -> Sequence[float]:
    """Mean and standard deviation over the brain in unit range that a modality should have beside these sources."""
    modalities = model.preset.modalities
    figures = [prepared.scales[m].brightness(volume, prepared.brain) for m, volume in prepared.volumes.items()]
    return model.brightness(figures, [modalities.index(m) for m in prepared.volumes], modalities.index(target))


def output_scale(like: IntensityScale, unit: Sequence[float]) -> IntensityScale:
    """An intensity scale like one source's: its percentiles stand for 0 and 1, and within them the brain has the mean
    and standard deviation of `unit`.

    One source's, not all sources' mean: scanners and converters give each image a scale of its own, and the source's
    data type holds only its own.
    """
    mean, std = unit
    width = like.high - like.low
    return IntensityScale(like.low, like.high, like.low + mean * width, std * width)


def restore_image(
    case: Case, target: str, scale: IntensityScale, volume: np.ndarray, prepared: Prepared, normalisation: str
) -> nib.Nifti1Image:
    """A normalised volume on the model's grid -> an image of its nearest source's type on the case's grid; 0 outside
    the brain and only there."""
    intensities = np.clip(scale.restore(volume, normalisation), scale.low, scale.high)
    own = prepared.restore(intensities.astype(np.float32))
    dtype = case.images[nearest_source(target, tuple(prepared.volumes))].get_data_dtype()
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        own = np.clip(np.rint(own.astype(np.float64)), bounds.min, bounds.max)
        smallest = 1.0  # 0 is the background
    else:
        dtype, smallest = np.dtype(np.float32), float(np.finfo(np.float32).tiny)
    own[prepared.own_brain & (own == 0)] = smallest
    return marked(_image(case, own, dtype), target, tuple(prepared.volumes))


def restore_deviation(
    case: Case, target: str, scale: IntensityScale, deviation: np.ndarray, prepared: Prepared, normalisation: str
) -> nib.Nifti1Image:
    """A normalised standard deviation -> a float32 image in the synthetic image's intensities."""
    width = scale.std if normalisation == "zscore" else (scale.high - scale.low) / 2
    own = prepared.restore((deviation * width).astype(np.float32))
    image = _image(case, own, np.dtype(np.float32))
    return marked(image, f"{target} uncertainty", tuple(prepared.volumes))


def _image(case: Case, volume: np.ndarray, dtype: np.dtype) -> nib.Nifti1Image:
    """`volume` with the affine and orientation codes of the case's first image, and nothing else of what its header
    says. Headers of one grid may differ in qform and sform; all that is synthesised for a case has the same."""
    source = next(iter(case.images.values()))
    image = nib.Nifti1Image(volume.astype(dtype), source.affine, dtype=dtype)
    with np.errstate(over="ignore"):  # NIfTI-2 can say more than NIfTI-1
        for name in PLACE:
            image.header[name] = source.header[name]
        image.header["pixdim"][:4] = source.header["pixdim"][:4]
    return image
