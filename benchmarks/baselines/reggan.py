"""RegGAN (Kong et al. 2021), mode NC+R: a registration network takes up what misaligned pairs would teach wrongly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.baselines.cyclegan import l1
from benchmarks.baselines.pair import Form, PairStage
from benchmarks.baselines.parts import PatchGAN, ResNetGenerator, frozen, lsgan, residual_block
from modfill.training.data import TrainingCase

L1_WEIGHT, SMOOTHNESS = 20.0, 10.0
ROTATION, SHIFT, SCALE = np.deg2rad(1.0), 0.02, 0.02  # the augmentation, alike for source and target


@dataclass(frozen=True)
class RegForm(Form):
    """Sizes with the registration network's number of halvings; the window must not end at an edge of 1."""

    halvings: int


class Registration(nn.Module):
    """U-Net from a synthetic and an acquired image to the displacement that aligns the first with the second.

    Args:
        width: channels below full resolution, 64 in the paper.
        halvings: of the resolution, 7 in the paper.
    """

    def __init__(self, width: int, halvings: int):
        super().__init__()
        half = width // 2
        widths = [half, *(halvings - 1) * [width]]
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.LeakyReLU(0.2), residual_block(2, b))
            for a, b in zip([2, *widths], widths, strict=False)
        )
        self.bottleneck = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1), nn.LeakyReLU(0.2), *(residual_block(2, 2 * width) for _ in range(3)),
            nn.Conv2d(2 * width, width, 1), nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width + skip, out, 3, padding=1), nn.LeakyReLU(0.2))
            for skip, out in zip(reversed(widths), [*(halvings - 1) * [width], half], strict=True)
        )
        self.refine = nn.Sequential(residual_block(2, half), nn.Conv2d(half, half, 1))
        self.flow = nn.Conv2d(half, 2, 3, padding=1)

    def initialise(self) -> None:
        """He's normal weights; a flow near 0."""
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, 0.2)
        nn.init.normal_(self.flow.weight, 0, 1e-5)
        nn.init.constant_(self.flow.get_parameter("bias"), 0)

    def forward(self, synthetic: Tensor, acquired: Tensor) -> Tensor:
        """Two images (B, 1, X, Y) -> displacement (B, 2, X, Y) in voxels, along the last axis first."""
        h, skips = torch.cat([synthetic, acquired], dim=1), []
        for block in self.down:
            skips.append(block(h))
            h = nn.functional.max_pool2d(skips[-1], 2)
        h = self.bottleneck(h)
        for block in self.up:
            skip = skips.pop()
            h = nn.functional.interpolate(h, skip.shape[2:], mode="bilinear")
            h = block(torch.cat([h, skip], dim=1))
        return self.flow(self.refine(h))


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """The image (B, 1, X, Y) at displaced places; flow (B, 2, X, Y) in voxels, along the last axis first."""
    steps = [torch.arange(n, dtype=torch.float32, device=image.device) for n in image.shape[2:]]
    y, x = torch.meshgrid(*steps, indexing="ij")
    last = torch.tensor([n - 1 for n in reversed(image.shape[2:])], device=image.device)
    places = (torch.stack([x, y]) + flow.float()).movedim(1, -1) / last * 2 - 1
    return nn.functional.grid_sample(image.float(), places, padding_mode="border", align_corners=True)


def roughness(flow: Tensor) -> Tensor:
    """Mean squared differences of neighbouring displacements, along both axes."""
    flow = flow.float()
    return flow.diff(dim=2).square().mean() + flow.diff(dim=3).square().mean()


class RegGAN(PairStage):
    """Generator and registration together, then the discriminator, which gives one score for an image."""

    name = "reggan"
    FULL = RegForm(64, 9, (256, 256, 1), 1, 100_000, halvings=7)
    SMALL = RegForm(8, 4, (96, 96, 1), 1, 2_000, halvings=5)
    players = (("generator", "registration"), ("discriminator",))
    kept = ("generator",)
    rate, constant = 1e-4, 1.0

    def __init__(self, form: RegForm, pair: tuple[int, int], cases: list[TrainingCase], held_out: list[TrainingCase]):
        super().__init__(form, pair, cases, held_out)
        self.generator = ResNetGenerator(2, form.width, form.blocks)
        self.discriminator = PatchGAN(2, 1, form.width)
        self.registration = Registration(form.width, form.halvings)
        self.registration.initialise()

    def batch(self, rng: np.random.Generator) -> Mapping[str, Tensor]:
        """Draw the inputs of one step, turned, shifted and scaled a little, source and target alike."""
        drawn = super().batch(rng)
        both = torch.cat([drawn["source"], drawn["target"]], dim=1)
        moves = torch.from_numpy(np.stack([_small_move(rng) for _ in both])).to(both)
        places = nn.functional.affine_grid(moves, list(both.shape), align_corners=False)
        both = nn.functional.grid_sample(both + 1, places, align_corners=False) - 1
        return {"source": both[:, :1], "target": both[:, 1:]}

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this turn's player, a scalar, and its parts for the curves."""
        return (self._generator, self._discriminator)[self.turn](batch["source"], batch["target"])

    def _generator(self, source: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        synthetic = self.generator(source)
        flow = self.registration(synthetic, target)
        with frozen(self.discriminator):
            fooled = lsgan(self._score(synthetic), 1)
        parts = {"l1": l1(warp(synthetic, flow), target), "smoothness": roughness(flow), "adversarial": fooled}
        loss = fooled + L1_WEIGHT * parts["l1"] + SMOOTHNESS * parts["smoothness"]
        return loss, {**parts, "flow": flow.detach().abs().mean()}

    def _discriminator(self, source: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            synthetic = self.generator(source)
        loss = lsgan(self._score(synthetic), 0) + lsgan(self._score(target), 1)
        return loss, {"discriminator": loss}

    def _score(self, image: Tensor) -> Tensor:
        return self.discriminator(image).mean((1, 2, 3))

    def translate(self, source: Tensor) -> Tensor:
        """As in `PairStage`."""
        return self.generator(source)


def _small_move(rng: np.random.Generator) -> np.ndarray:
    """A rotation, scale and shift (2, 3) for `affine_grid`, whose images have an edge of 2."""
    turn, scale = ROTATION * rng.uniform(-1, 1), 1 + SCALE * rng.uniform(-1, 1)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * scale
    return np.column_stack([linear, 2 * SHIFT * rng.uniform(-1, 1, 2)]).astype(np.float32)
