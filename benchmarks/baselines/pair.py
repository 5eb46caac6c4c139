"""Common parts of the rivals that translate one modality into one other: slices or crops, in [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.baselines.parts import constant_then_linear
from modfill.metrics import psnr
from modfill.model.config import StageConfig
from modfill.training.augmentation import random_box
from modfill.training.data import TrainingCase
from modfill.training.loop import Stage

OVERLAP = 0.1  # of the windows that slide over a whole volume
AT_ONCE = 2**18  # voxels of such windows in one batch, or one window


@dataclass(frozen=True)
class Form:
    """The sizes of a rival.

    Attributes:
        width: channels of the first layer, of generator and discriminator.
        blocks: residual blocks, or levels, of the generator.
        window: voxels of a training crop, and of the window that slides over a whole volume; 1 along z for slices.
        crops: per step.
        steps: without a time budget.
    """

    width: int
    blocks: int
    window: tuple[int, int, int]
    crops: int
    steps: int


class PairStage(Stage):
    """Players trained in turns on crops of one source and one target.

    The intensities are those between the 0.5 and 99.5 percentiles of a modality's brain, from -1 to 1, and -1 outside
    of the brain, as in the rivals' papers.

    Args:
        form: `FULL`, `SMALL` or another one.
        pair: indices of source and target.
        cases: to learn from; none to use what has been trained.
        held_out: to validate on.
    """

    FULL: ClassVar[Form]
    SMALL: ClassVar[Form]
    players: ClassVar[tuple[tuple[str, ...], ...]]  # names of the modules that learn in each turn
    kept: ClassVar[tuple[str, ...]]  # names of the modules that `translate` needs
    universal: ClassVar[bool] = False  # one network translates every modality into every other
    paired: ClassVar[bool] = True  # crops of source and target are of the same place
    rate: ClassVar[float] = 2e-4
    weight_decay: ClassVar[float] = 0.0
    constant: ClassVar[float] = 0.5  # share of the budget until the learning rate begins to fall

    def __init__(self, form: Form, pair: tuple[int, int], cases: list[TrainingCase], held_out: list[TrainingCase]):
        super().__init__()
        self.form, self.pair, self.cases, self.held_out = form, pair, cases, held_out
        self.turns = len(self.players)
        # the papers average no weights and clip no gradients
        self.config = StageConfig(form.steps, 1.0, self.rate, crops=form.crops, ema=0.0, gradient_clip=float("inf"))

    @property
    def dimensions(self) -> int:
        """2 for slices, 3 for volumes."""
        return 2 if self.form.window[2] == 1 else 3

    def optimisers(self, parameters: Mapping[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
        """Adam for each player."""
        return [
            torch.optim.Adam([p for name, p in parameters.items() if name.startswith(tuple(f"{m}." for m in modules))],
                             lr=self.rate, betas=(0.5, 0.999), weight_decay=self.weight_decay)
            for modules in self.players
        ]  # fmt: skip

    def learning_rate(self, step: int) -> float:
        """Constant, then linear to 0."""
        return self.rate * constant_then_linear(self.spent, self.constant)

    def batch(self, rng: np.random.Generator) -> Mapping[str, Tensor]:
        """Draw the inputs of one step: source and target (B, 1, X, Y[, Z])."""
        drawn = [self._crops(rng) for _ in range(self.form.crops)]
        source, target = (torch.stack(crops) for crops in zip(*drawn, strict=True))
        return {"source": source, "target": target}

    def _crops(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        source, target = self._crop(rng)
        return (source, target) if self.paired else (source, self._crop(rng)[1])

    def _crop(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Source and target of one place, (1, X, Y[, Z]), mirrored or not."""
        case = self.cases[int(rng.integers(len(self.cases)))]
        box = random_box(rng, case, self.form.window)
        brain = np.array(case.brain[box])
        crops = np.stack([self._signed(case, m, case.volumes[m][box], brain) for m in self.pair])
        missing = [edge - n for edge, n in zip(self.form.window, brain.shape, strict=True)]
        crops = np.pad(crops, [(0, 0), *((n // 2, n - n // 2) for n in missing)], constant_values=-1)
        if rng.random() < 0.5:
            crops = crops[:, ::-1].copy()
        volumes = torch.from_numpy(crops).to(self.device)
        if self.dimensions == 2:
            volumes = volumes[..., 0]
        return volumes[:1], volumes[1:]

    @staticmethod
    def _signed(case: TrainingCase, modality: int, volume: np.ndarray, brain: np.ndarray) -> np.ndarray:
        unit = case.scale(modality).to_unit(volume.astype(np.float32))
        return np.where(brain, 2 * unit - 1, -1).astype(np.float32)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def translate(self, source: Tensor) -> Tensor:
        """Source (B, 1, X, Y[, Z]) -> target, both from -1 to 1."""
        raise TypeError(f"{type(self).__name__} must define translate()")

    def whole(self, source: np.ndarray) -> np.ndarray:
        """A whole source (X, Y, Z) in unit range, 0 outside the brain -> the target in unit range."""
        from monai.inferers import sliding_window_inference

        def windows(crops: Tensor) -> Tensor:
            flat = crops[..., 0] if self.dimensions == 2 else crops
            return self.translate(flat).float().reshape(crops.shape)

        signed = torch.from_numpy(2 * source.astype(np.float32) - 1)[None, None].to(self.device)
        at_once = max(1, AT_ONCE // math.prod(self.form.window))
        target = sliding_window_inference(
            signed, self.form.window, at_once, windows, OVERLAP, "gaussian", padding_mode="constant", cval=-1.0
        )
        unit = 0.5 * (cast(Tensor, target)[0, 0] + 1)
        return unit.clamp(0, 1).cpu().numpy()

    def validate(self) -> float:
        """Mean PSNR of the held-out cases."""
        return float(np.mean([self.psnr(case) for case in self.held_out]))

    def psnr(self, case: TrainingCase) -> float:
        """PSNR in dB of a complete case."""
        source, target = (case.scale(m).to_unit(case.volumes[m].astype(np.float32)) for m in self.pair)
        return psnr(target * case.brain, self.whole(source * case.brain) * case.brain)
