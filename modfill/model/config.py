"""The sizes of a model, as frozen dataclasses, and the three presets built from them.

A preset says what to build and how to train it; nothing else in modfill holds a hyperparameter. A checkpoint carries
its preset as JSON, so that the file alone rebuilds the model.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from modfill.modalities import BRATS, ModalitySet


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
    """MS-SPADE translation of the sources, and the guided decoder.

    Attributes:
        channels: widths at a half, a quarter (the latent grid), an eighth and a sixteenth of the resolution.
        token: dimensions of the embedding of the sources' statistics.
        dropout: share of channels set to 0 in training, below the latent grid.
        context: channels that the decoder's network on single voxels reads of the features at half the resolution.
        near: channels that it reads of the sources' neighbouring voxels.
        hidden: its width.
    """

    channels: tuple[int, ...] = (40, 112, 160, 160)
    token: int = 64
    dropout: float = 0.1
    context: int = 16
    near: int = 12
    hidden: int = 48


@dataclass(frozen=True)
class DenoiserConfig:
    """The diffusion UNet.

    Attributes:
        channels: widths on the latent grid, at half and at a quarter of its resolution.
        embedding: dimensions of the noise level's and the modalities' embeddings.
        sampling_steps: evaluations for a sample.
    """

    channels: tuple[int, ...] = (96, 144, 160)
    embedding: int = 128
    sampling_steps: int = 12


@dataclass(frozen=True)
class StageConfig:
    """Training of one stage.

    Attributes:
        steps: optimiser steps without a time budget.
        share: share of the whole time budget (`--minutes`) that the stage receives.
        crop: edge in voxels of the training crops (0: the whole volume).
        crops: crops per step; the denoiser's are whole cases out of `variants`.
        variants: deformed and re-contrasted cases whose latents the denoiser trains on.
    """

    steps: int
    share: float
    learning_rate: float
    crop: int = 0
    crops: int = 1
    variants: int = 0
    warmup: int = 100
    weight_decay: float = 1e-4
    ema: float = 0.999
    gradient_clip: float = 1.0


@dataclass(frozen=True)
class LossConfig:
    """Weights of the autoencoder's losses (paper, section 3.1 and the released code; `detail` is not the paper's)."""

    kl: float = 1e-6
    perceptual: float = 1.0
    detail: float = 0.0
    adversarial: float = 0.8
    adversarial_from: int = 10_000


_LARGEST = 2**16  # of any size that a file's preset may name: a codebook has 8,192 codes, a layer 512 channels
_DEEPEST = 16  # levels, blocks or layers

FOLD = 2  # edge of the blocks of voxels that a halving or a doubling of the resolution works on

STAGES = ("autoencoder", "translator", "denoiser")


@dataclass(frozen=True)
class Preset:
    """Everything that rebuilds and trains one ALDM."""

    name: str
    modality_set: ModalitySet = BRATS
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    translator: TranslatorConfig = field(default_factory=TranslatorConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    training: dict[str, StageConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.autoencoder.factor != FOLD**2:
            raise ValueError(f"the latent grid must be a quarter of the volume's, got 1 / {self.autoencoder.factor}")
        for name, levels in (("translator", 4), ("denoiser", 3)):
            if len(getattr(self, name).channels) != levels:
                raise ValueError(f"channels of the {name} must be {levels}, got {getattr(self, name).channels}")

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities, in the order of the networks' channels."""
        return self.modality_set.names

    @property
    def multiple(self) -> int:
        """Every edge of a volume must be a multiple of this: the halvings of translator and denoiser."""
        return FOLD**4

    def to_json(self) -> str:
        """The preset as JSON text, for a checkpoint's metadata."""
        return json.dumps(asdict(self) | {"modality_set": self.modality_set.table})

    @classmethod
    def from_json(cls, text: str) -> Preset:
        """Rebuild a preset from the text of `to_json`.

        Raises:
            TypeError: the text is of something else.
            ValueError: likewise, or a size is absurd: the text may come from a stranger's file.
        """
        raw = json.loads(text)
        raw["modality_set"] = _modality_set(raw)
        parts = {"autoencoder": AutoencoderConfig, "translator": TranslatorConfig, "denoiser": DenoiserConfig,
                 "losses": LossConfig}  # fmt: skip
        for name, part in parts.items():
            _check_sizes(raw[name])
            raw[name] = part(**_tuples(raw[name]))
        raw["training"] = {stage: StageConfig(**settings) for stage, settings in raw["training"].items()}
        return cls(**_tuples(raw))


def _modality_set(raw: dict[str, Any]) -> ModalitySet:
    """The set of a preset's text; before there were others, it held the names of the BraTS set."""
    if "modality_set" in raw:
        return ModalitySet.from_table(raw["modality_set"])
    if tuple(raw.pop("modalities")) != BRATS.names:
        raise ValueError("modalities must be a set, got names; train the weights again")
    return BRATS


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


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="tiny",
            autoencoder=AutoencoderConfig(2, (8, 16), 1, 4, None, True, True),
            translator=TranslatorConfig((8, 16, 16, 16), 16, 0.0, 8, 4, 16),
            denoiser=DenoiserConfig((16, 16, 32), 16, 4),
            losses=LossConfig(adversarial=0.0),
            training={
                "autoencoder": StageConfig(200, 0.3, 2e-3, crop=32, crops=2, warmup=10, ema=0.98),
                "translator": StageConfig(200, 0.5, 2e-3, crop=32, crops=2, warmup=10, ema=0.98),
                "denoiser": StageConfig(100, 0.2, 1e-3, crops=2, variants=8, warmup=10, ema=0.98),
            },
        ),
        Preset(
            name="small",
            autoencoder=AutoencoderConfig(2, (64, 128), 1, 8, None, True, True),
            losses=LossConfig(detail=2.0, adversarial=0.3, adversarial_from=150),
            training={
                "autoencoder": StageConfig(10_000, 0.2, 3e-4, crop=64, crops=16),
                "translator": StageConfig(
                    10_500, 0.55, 2.5e-3, crop=96, crops=8, warmup=200, weight_decay=1e-2, ema=0.999
                ),
                "denoiser": StageConfig(10_000, 0.25, 2.5e-3, crops=8, variants=900, weight_decay=1e-2),
            },
        ),
        Preset(
            name="paper",
            translator=TranslatorConfig((64, 256, 256, 256), context=32, hidden=64),
            denoiser=DenoiserConfig((128, 256, 512), 512, 50),
            training={  # over 1,251 cases: 500 epochs for the autoencoder, 800 for the denoiser, batch 4
                "autoencoder": StageConfig(156_000, 0.4, 2e-6),
                "translator": StageConfig(156_000, 0.2, 2.5e-3, crop=96, crops=4),
                "denoiser": StageConfig(250_000, 0.4, 1e-4, crops=4, variants=5_000),
            },
        ),
    )
}
