"""`modfill train`: all stages of a preset in order, or one of them, into a run folder."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from modfill.atomic import writable
from modfill.errors import ModfillError
from modfill.modalities import ModalitySet
from modfill.model.config import PRESETS, STAGES, Preset
from modfill.model.device import best_device, half_is_fast
from modfill.model.synthesiser import Synthesiser
from modfill.training.calibration import fit_to_held_out
from modfill.training.data import (
    TrainingCase,
    brightness_of,
    file_digest,
    load_cohort,
    load_lesions,
    require_every_modality,
)
from modfill.training.latents import LatentBank
from modfill.training.lesions import LesionNetwork
from modfill.training.log import Budget
from modfill.training.loop import Stage, rank, require_origin, train
from modfill.training.regions import Regions
from modfill.training.stages.autoencoder import AutoencoderStage
from modfill.training.stages.denoiser import DenoiserStage
from modfill.training.stages.lesions import SHARE, LesionStage
from modfill.training.stages.translator import TranslatorStage
from modfill.weights import checkpoint
from modfill.weights.file import WeightsFile

HELD_OUT_EVERY = 10  # without a validation folder every tenth case is held out
# Rank 0 prepares the cohort alone, which may take hours, and it validates alone. A rank that dies leaves nobody
# waiting: torchrun ends the others.
LONGEST_WAIT = timedelta(days=2)


def train_preset(
    preset_name: str,
    *,
    data: Path,
    out: Path,
    validate: Path | None = None,
    stage: str | None = None,
    minutes: float | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    weights: Path | None = None,
    regions: Path | None = None,
    lesions: float = 0.0,
    modality_set: ModalitySet | str | Path | None = None,
) -> Path:
    """Train a preset, or one stage of it, resuming whatever `out` already holds.

    Args:
        preset_name: a key of `modfill.model.config.PRESETS`.
        data: folder of training cases, each with two modalities or more.
        out: run folder; receives `<stage>.ckpt`, `<stage>.csv`, TensorBoard files and `weights.safetensors`.
        validate: folder of validation cases; None holds every tenth training case out.
        stage: train this stage alone; the stages before it must be in `out`.
        minutes: time budget for everything asked for, shared among the stages as the preset says.
        seed: of all randomness.
        device: None takes a GPU where there is one.
        weights: trained weights of the same preset to start from, which may lack the last stages; a stage in `out`
            goes before them. With `stage`, only this stage and what is fitted to held-out cases change.
        regions: tumour regions of more patients, for the translator; see `modfill.training.regions`.
        lesions: weight of lesion features in the translator's loss, about 0.2; 0 leaves them out. First a small
            segmentation network is trained on the cases of `data` that have `<case_id>-seg.nii.gz` beside their images,
            in a tenth of the translator's budget, and kept as `lesions.ckpt`.
        modality_set: a set, the name of a built-in one, or a TOML file; None takes that of `weights`, or the BraTS set.

    Returns:
        The path of `weights.safetensors`.

    Raises:
        ModfillError: unknown preset or stage, no time to train in, weights of another preset, no case, an earlier
            stage that is missing, or one in `out` of other modalities or cases, or begun with another seed, other
            regions or another weight of lesions.
    """
    if minutes is not None and not 0 < minutes < math.inf:
        raise ModfillError(f"minutes must be more than 0, got {minutes}")
    if modality_set is None and weights is not None:
        modality_set = WeightsFile.open(weights).preset.modality_set
    preset = replace(_preset_named(preset_name, stage), modality_set=ModalitySet.of(modality_set))
    more = Regions(regions, len(preset.modalities)) if regions else None
    _join_group()
    device = device or best_device()
    with writable(out):
        out.mkdir(parents=True, exist_ok=True)
    cases, held_out = _cohorts(data, validate, out, preset)
    torch.manual_seed(seed)
    model, trained = _start(preset, weights)
    model.to(device)
    if stage is None or weights is None:  # one stage alone leaves what else the weights hold as it is
        model.brightness.fit(torch.tensor([brightness_of(case) for case in cases]))
    half = half_is_fast(device) and _half_is_sound(cases, preset, device)
    stages = (stage,) if stage else STAGES
    origin = _origin(preset, cases, held_out)

    labels = _lesions(data, out, preset, cases) if lesions else {}
    learn = partial(train, run=out, seed=seed, device=device, half=half)

    def train_stage(name: str) -> None:
        budget, frozen = _budget(preset, name, stages, minutes), None
        common = {**origin, "the seed": str(seed)}
        if name == "translator" and labels:
            first = LesionStage(LesionNetwork(len(preset.modalities)), preset, cases, labels)
            first.origin = common
            learn(first, budget=budget.share(SHARE))
            budget, frozen = budget.share(1 - SHARE), (first.network.requires_grad_(False), lesions)
        made = _stage(name, model, cases, held_out, out=out, regions=more, lesions=frozen)
        made.origin = common | _origin_of(name, regions, lesions)
        learn(made, budget=budget)

    ready, renewed = _train_stages(model, trained, stages, out=out, train_stage=train_stage, origin=origin)
    result = out / "weights.safetensors"
    if rank() == 0:
        if renewed and ready == STAGES:
            fit_to_held_out(model, held_out)
        checkpoint.save(model, result, ready)
    return result


def _train_stages(
    model: Synthesiser,
    trained: Collection[str],
    stages: Sequence[str],
    *,
    out: Path,
    train_stage: Callable[[str], None],
    origin: Mapping[str, str],
) -> tuple[tuple[str, ...], set[str]]:
    """Train stages in the preset's order, and load the finished ones between them.

    Args:
        model: the model to train.
        trained: stages that are trained in the weights to start from.
        stages: those to train now.
        out: run folder.
        train_stage: trains one stage of the model.
        origin: what the finished stages must have been trained from.

    Returns:
        The stages that are trained now, up to the first one that is not; and those of them that this run folder holds.
    """
    ready: list[str] = []
    renewed: set[str] = set()
    for name in STAGES:
        done = out / f"{name}.ckpt"
        if name in stages:
            train_stage(name)
        elif done.exists() or (name not in trained and STAGES.index(name) < STAGES.index(stages[0])):
            _load_averaged(getattr(model, name), done, origin)
        elif name not in trained:
            break
        ready.append(name)
        if name in stages or done.exists():
            renewed.add(name)
    return tuple(ready), renewed


def _origin(preset: Preset, cases: list[TrainingCase], held_out: list[TrainingCase]) -> dict[str, str]:
    """Name the modalities and the cases, which all stages of a run share."""
    keys = hashlib.sha256("\n".join([*(case.key for case in cases), "", *(case.key for case in held_out)]).encode())
    known = f"{len(cases)} and {len(held_out)} held out (SHA-256 {keys.hexdigest()[:8]})"
    return {"the modalities": ", ".join(preset.modalities), "the cases": known}


def _origin_of(stage: str, regions: Path | None, lesions: float) -> dict[str, str]:
    """Name the tumour regions and the weight of lesion features, which only the translator has."""
    if stage != "translator":
        return {}
    known = "none" if regions is None else f"of SHA-256 {file_digest(regions)[:8]}"
    return {"the tumour regions": known, "the weight of lesion features": f"{lesions:g}"}


def _budget(preset: Preset, name: str, stages: Sequence[str], minutes: float | None) -> Budget:
    """The steps of a stage, and its share of the minutes."""
    settings = preset.training[name]
    whole = sum(preset.training[name].share for name in stages)
    return Budget(settings.steps, minutes and minutes * settings.share / whole)


def _preset_named(preset_name: str, stage: str | None) -> Preset:
    if preset_name not in PRESETS:
        raise ModfillError(f"preset must be one of {', '.join(PRESETS)}, got '{preset_name}'")
    preset = PRESETS[preset_name]
    if stage is not None and stage not in STAGES:
        raise ModfillError(f"stage must be one of {', '.join(STAGES)}, got '{stage}'")
    return preset


def _start(preset: Preset, weights: Path | None) -> tuple[Synthesiser, tuple[str, ...]]:
    """The model to train, with random weights or those of a file, and the stages that are trained already."""
    if weights is None:
        return Synthesiser(preset), ()
    model, file = checkpoint.load(weights)
    if model.preset.modalities != preset.modalities:
        got = ", ".join(model.preset.modalities)
        raise ModfillError(f"{weights} must be of {', '.join(preset.modalities)}, got {got}; leave modalities=… out")
    fresh = Synthesiser(preset)
    shapes = {name: value.shape for name, value in fresh.state_dict().items()}
    if any(shapes.get(name) != value.shape for name, value in model.state_dict().items()):
        raise ModfillError(
            f"{weights} must be of preset {preset.name}, got one of {model.preset.name}; choose that preset"
        )
    fresh.load_state_dict(model.state_dict(), strict=False)
    return fresh, file.stages


def _join_group() -> None:
    """Join torchrun's process group, if this process was started by torchrun."""
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=LONGEST_WAIT)


def _cohorts(
    data: Path, validate: Path | None, out: Path, preset: Preset
) -> tuple[list[TrainingCase], list[TrainingCase]]:
    """Training and held-out cases. Rank 0 fills the cache before the others read it."""
    if rank() != 0:
        dist.barrier()
    cases = load_cohort(data, out / "cache" / "train", preset)
    given = None if validate is None else load_cohort(validate, out / "cache" / "validate", preset)
    if rank() == 0 and dist.is_initialized():
        dist.barrier()
    if given is not None:
        require_every_modality(cases, preset)
        return cases, given
    if len(cases) < 2:
        raise ModfillError(f"{data}: one case cannot be split in two; give others for validation (validate=DIR)")
    held_out = cases[::HELD_OUT_EVERY]
    kept = [case for case in cases if case not in held_out]
    require_every_modality(kept, preset)
    return kept, held_out


def _lesions(data: Path, out: Path, preset: Preset, cases: list[TrainingCase]) -> dict[str, np.ndarray]:
    """Labels of training cases by id. Rank 0 fills the cache before the others read it."""
    if rank() != 0:
        dist.barrier()
    labels = load_lesions(data, out / "cache" / "train", preset, cases)
    if rank() == 0 and dist.is_initialized():
        dist.barrier()
    return labels


def _half_is_sound(cases: list[TrainingCase], preset: Preset, device: torch.device) -> bool:
    """True if training in bfloat16 is correct.

    On the CPU, the weight gradient of a 3x3x3 convolution over a volume whose first edge is 2 reads uninitialised
    memory (torch 2.13), so no network may have so small a level.
    """
    edges = [case.brain.shape[0] for case in cases] + [c.crop for c in preset.training.values() if c.crop]
    return device.type == "cuda" or min(edges) >= 3 * preset.multiple


def _filled(bank: LatentBank) -> None:
    """Let every rank add its share to a bank."""
    bank.fill(rank(), dist.get_world_size() if dist.is_initialized() else 1)
    if dist.is_initialized():
        dist.barrier()


def _stage(
    name: str,
    model: Synthesiser,
    cases: list[TrainingCase],
    held_out: list[TrainingCase],
    *,
    out: Path,
    regions: Regions | None,
    lesions: tuple[LesionNetwork, float] | None,
) -> Stage:
    """The stage, with its part of the model alone set to learn, and what needs no learning fitted."""
    part = getattr(model, name)
    model.requires_grad_(False)
    part.requires_grad_(True)
    if name == "autoencoder":
        return AutoencoderStage(model.autoencoder, model.preset, cases, held_out)
    if name == "translator":
        return TranslatorStage(model, cases, held_out, regions, lesions)
    bank = LatentBank(model, cases, out / "latents", model.preset.training[name].variants)
    _filled(bank)
    return DenoiserStage(model, bank, held_out)


def _load_averaged(part: nn.Module, path: Path, origin: Mapping[str, str]) -> None:
    """Put the averaged weights of a finished stage into its part of the model."""
    if not path.exists():
        raise ModfillError(f"{path} is missing: train stage '{path.stem}' first, or all stages together")
    state = torch.load(path, map_location="cpu", weights_only=True)
    require_origin(path, state, origin)
    prefix = "autoencoder." if path.stem == "autoencoder" else "part."
    values = {**state["buffers"], **state["ema"]}
    part.load_state_dict({name.removeprefix(prefix): v for name, v in values.items() if name.startswith(prefix)})
