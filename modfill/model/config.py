"""The sizes of a model, as frozen dataclasses, and the four presets built from them.

A preset says what to build and how to train it; nothing else in modfill holds a hyperparameter. A checkpoint carries
its preset as JSON, so that the file alone rebuilds the model.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from modfill.modalities import MODALITIES
from modfill.settings import Settings


@dataclass(frozen=True)
class AutoencoderConfig:
    """The 3D VQGAN. Compression is `fold * 2 ** (len(channels) - 1)` along each axis.

    Attributes:
        fold: edge of the space-to-depth stem; 1 is the plain convolution of the paper.
        channels: widths, finest resolution first.
        blocks: residual blocks per resolution.
        latent_channels: dimensions of a latent voxel (and of a code).
        codes: codebook size; None regularises with KL instead of a codebook (the paper's ablation d).
        voxelwise_norm: normalise over the channels of each voxel instead of over groups of the volume; a crop and the
            whole volume then give the same latents.
        commitment: weight of the commitment loss (beta).
        shortcut: a linear path beside the encoder and the decoder; alone it is a principal component analysis of
            blocks, at which the training of the small presets starts.
    """

    fold: int = 1
    channels: tuple[int, ...] = (256, 512, 512)
    blocks: int = 2
    latent_channels: int = 3
    codes: int | None = 8192
    voxelwise_norm: bool = False
    shortcut: bool = False
    commitment: float = 0.25

    @property
    def factor(self) -> int:
        """Voxels of the volume along the edge of one latent voxel."""
        return self.fold * 2 ** (len(self.channels) - 1)


@dataclass(frozen=True)
class TranslatorConfig:
    """MS-SPADE (paper, Table B).

    Attributes:
        fold: 2 moves 2x2x2 latent voxels into channels first.
        shortcut: the network learns the residual of an affine map of the sources' latents (not in the paper).
        power: exponent of the latents' errors in the loss: 1 in the paper; 2 is minimised by the mean.
    """

    fold: int = 1
    stem_channels: int = 128
    residual_channels: tuple[int, ...] = (256, 256)
    spade_channels: tuple[int, ...] = (256, 256, 256, 128)
    outer_kernel: int = 7
    shortcut: bool = False
    power: int = 1


@dataclass(frozen=True)
class DenoiserConfig:
    """The diffusion UNet and its noise schedule.

    Attributes:
        prediction: what the network estimates: "epsilon" (paper) or "sample" (the clean latent).
        source_tokens: a context token for each source beside the target's; False is the paper's single one-hot token.
        mean_share: share of training steps at the last noise level with noise 0, the input of mode "mean".
    """

    fold: int = 1
    channels: tuple[int, ...] = (128, 256, 512)
    blocks: int = 2
    prediction: str = "epsilon"
    source_tokens: bool = True
    mean_share: float = 0.0
    steps: int = 1000
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    sampling_steps: int = 50


@dataclass(frozen=True)
class RefinerConfig:
    """The refiner: its width and its number of residual layers."""

    width: int = 320
    layers: int = 2


@dataclass(frozen=True)
class UNetConfig:
    """The U-Net beside the refiner: its widths, finest resolution (half the volume's) first."""

    channels: tuple[int, ...] = (48, 64, 96, 128)


@dataclass(frozen=True)
class StageConfig:
    """Training of one stage.

    Attributes:
        steps: optimiser steps without a time budget.
        share: share of the whole time budget (`--minutes`) that the stage receives.
        crop: edge in voxels of the training crops (0: the whole volume).
        crops: crops per step; the refiner's are draws of 1,024 voxels.
    """

    steps: int
    share: float
    learning_rate: float
    crop: int = 0
    crops: int = 1
    warmup: int = 100
    weight_decay: float = 1e-4
    ema: float = 0.999
    gradient_clip: float = 1.0


@dataclass(frozen=True)
class LossConfig:
    """Weights of the autoencoder's losses (paper, section 3.1 and the released code)."""

    kl: float = 1e-6
    perceptual: float = 1.0
    adversarial: float = 0.8
    adversarial_from: int = 10_000


_LARGEST = 2**16  # of any size that a file's preset may name: a codebook has 8,192 codes, a layer 512 channels
_DEEPEST = 16  # levels, blocks or layers

GRAIN = 16  # the refiner's pyramid halves a volume four times
FOLD = 2  # edge of the blocks that the U-Net works on

STAGES = ("autoencoder", "translator", "denoiser", "refiner", "unet")


@dataclass(frozen=True)
class Preset:
    """Everything that rebuilds and trains one ALDM."""

    name: str
    modalities: tuple[str, ...] = MODALITIES
    normalisation: str = "zscore"
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    translator: TranslatorConfig = field(default_factory=TranslatorConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    refiner: RefinerConfig | None = None
    unet: UNetConfig | None = None  # only beside a refiner
    losses: LossConfig = field(default_factory=LossConfig)
    training: dict[str, StageConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.unet and not self.refiner:
            raise ValueError("a preset with a U-Net must have a refiner, got none")

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that this preset trains, in order."""
        return tuple(stage for stage in STAGES if getattr(self, stage) is not None)

    @property
    def single_step_mean(self) -> bool:
        """Tell whether one diffusion step gives the mean: a network that predicts the clean latent does."""
        return self.denoiser.prediction == "sample"

    def samples_needed(self, settings: Settings) -> int:
        """Samples on which the answer depends: those that the mean averages, or whose spread is the uncertainty."""
        averaged = settings.mode == "mean" and not (self.single_step_mean and settings.steps is None)
        spread = settings.uncertainty and self.refiner is None
        return settings.samples if averaged or spread else 1

    @property
    def multiple(self) -> int:
        """Every edge of a volume must be a multiple of this: the compression times the halvings of every UNet."""
        halvings = math.lcm(self.translator.fold, self.denoiser.fold * 2 ** (len(self.denoiser.channels) - 1))
        blocks = FOLD * 2 ** (len(self.unet.channels) - 1) if self.unet else 1
        return math.lcm(self.autoencoder.factor * halvings, GRAIN if self.refiner else 1, blocks)

    def to_json(self) -> str:
        """The preset as JSON text, for a checkpoint's metadata."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Preset:
        """Rebuild a preset from the text of `to_json`.

        Raises:
            TypeError: the text is of something else.
            ValueError: likewise, or a size is absurd: the text may come from a stranger's file.
        """
        raw = json.loads(text)
        _check_depth("modalities", raw["modalities"])
        parts = {"autoencoder": AutoencoderConfig, "translator": TranslatorConfig, "denoiser": DenoiserConfig,
                 "refiner": RefinerConfig, "unet": UNetConfig, "losses": LossConfig}  # fmt: skip
        for name, part in parts.items():
            if raw[name] is not None:
                _check_sizes(raw[name])
                raw[name] = part(**_tuples(raw[name]))
        _check_choices(raw)
        raw["training"] = {stage: StageConfig(**settings) for stage, settings in raw["training"].items()}
        return cls(**_tuples(raw))


def _check_choices(raw: dict[str, Any]) -> None:
    """Refuse unknown modalities, normalisations and predictions."""
    if sorted(raw["modalities"]) != sorted(MODALITIES):
        raise ValueError(f"modalities must be {', '.join(MODALITIES)}, got {raw['modalities']}")
    if raw["normalisation"] not in ("zscore", "range"):
        raise ValueError(f"normalisation must be zscore or range, got {raw['normalisation']}")
    if raw["denoiser"].prediction not in ("epsilon", "sample"):
        raise ValueError(f"prediction must be epsilon or sample, got {raw['denoiser'].prediction}")


def _check_sizes(part: dict[str, Any]) -> None:
    """Refuse sizes whose networks would not fit into memory, before anything is built."""
    for key, value in part.items():
        values = value if isinstance(value, list) else [value]
        if any(isinstance(v, int | float) and not 0 <= v <= _LARGEST for v in values):
            raise ValueError(f"{key} must be from 0 to {_LARGEST}, got {value}")
        if isinstance(value, list) or key in ("blocks", "layers"):
            _check_depth(key, value)


def _check_depth(key: str, value: list[Any] | int) -> None:
    depth = len(value) if isinstance(value, list) else value
    if depth > _DEEPEST:
        raise ValueError(f"{key} must be at most {_DEEPEST}, got {depth}")


def _tuples(raw: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}


def _paper_training(rate: float) -> dict[str, StageConfig]:
    """The paper's schedule over 1,251 cases: 500 epochs for the autoencoder, 800 for the denoiser, batch 4."""
    return {
        "autoencoder": StageConfig(steps=156_000, share=0.4, learning_rate=rate, crop=0),
        "translator": StageConfig(steps=156_000, share=0.2, learning_rate=rate),
        "denoiser": StageConfig(steps=250_000, share=0.4, learning_rate=rate),
    }


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="tiny",
            autoencoder=AutoencoderConfig(2, (8, 16), 1, 4, None, True, True),
            translator=TranslatorConfig(2, 16, (16,), (16,), 3, True, 2),
            denoiser=DenoiserConfig(2, (16, 32), 1, "sample", mean_share=0.5, sampling_steps=4),
            refiner=RefinerConfig(16, 1),
            unet=UNetConfig((8, 16)),
            losses=LossConfig(adversarial=0.0),
            training={
                "autoencoder": StageConfig(200, 0.3, 2e-3, crop=32, crops=2, warmup=10, ema=0.98),
                "translator": StageConfig(100, 0.1, 1e-3, warmup=10, ema=0.98),
                "denoiser": StageConfig(100, 0.1, 1e-3, warmup=10, ema=0.98),
                "refiner": StageConfig(200, 0.3, 2e-3, crops=4, warmup=10, ema=0.98),
                "unet": StageConfig(200, 0.2, 2e-3, crop=32, crops=2, warmup=10, ema=0.98),
            },
        ),
        Preset(
            name="small",
            autoencoder=AutoencoderConfig(2, (64, 128), 1, 8, None, True, True),
            translator=TranslatorConfig(2, 64, (64,), (64, 64), 3, True, 2),
            denoiser=DenoiserConfig(2, (64, 128), 1, "sample", mean_share=0.5, sampling_steps=20),
            refiner=RefinerConfig(),
            unet=UNetConfig(),
            losses=LossConfig(adversarial=0.0),
            training={
                "autoencoder": StageConfig(8_000, 0.15, 5e-4, crop=64),
                "translator": StageConfig(4_000, 0.1, 4e-4),
                "denoiser": StageConfig(4_000, 0.1, 4e-4),
                "refiner": StageConfig(20_000, 0.25, 2e-3, crops=16, ema=0.998),
                "unet": StageConfig(8_000, 0.4, 1e-3, crop=128, crops=4, warmup=200, weight_decay=1e-2),
            },
        ),
        Preset(
            name="released",
            normalisation="range",
            autoencoder=AutoencoderConfig(1, (64, 64, 128), 2, 4, 8192),
            translator=TranslatorConfig(),
            denoiser=DenoiserConfig(1, (128, 256, 512), 2, sampling_steps=200),
            training=_paper_training(4.5e-6),
        ),
        Preset(name="paper", normalisation="range", training=_paper_training(2e-6)),
    )
}
