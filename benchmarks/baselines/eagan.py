"""dEa-GAN (Yu et al. 2019): Pix2Pix in 3D whose loss and discriminator compare edges too."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from benchmarks.baselines.cyclegan import l1
from benchmarks.baselines.pair import Form, PairStage
from benchmarks.baselines.parts import ImagePool, PatchGAN, frozen, initialise, lsgan
from modfill.training.data import TrainingCase

L1_WEIGHT, EDGE_WEIGHT = 300.0, 100.0
RAMP = 20 / 150  # of the budget: the weight of the edges rises linearly from 0 over 20 of 150 epochs
POOL = 4
WIDEST = 8  # times the first layer's channels


class Level(nn.Module):
    """A halving and a doubling of the U-Net, with what lies between them, beside a skip connection.

    Args:
        channels: of input and output at this level's resolution.
        inner: channels at half of it.
        between: the next level, or None for the innermost.
        dropout: after the doubling.
    """

    def __init__(self, channels: int, inner: int, between: nn.Module | None, dropout: bool):
        super().__init__()
        deep: list[nn.Module] = [nn.BatchNorm3d(inner), between] if between else []
        self.body = nn.Sequential(
            nn.LeakyReLU(0.2), nn.Conv3d(channels, inner, 4, 2, 1), *deep, nn.ReLU(),
            nn.ConvTranspose3d(inner * (2 if between else 1), channels, 4, 2, 1), nn.BatchNorm3d(channels),
            *([nn.Dropout(0.5)] if dropout else []),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, x, y, z) -> (B, 2 C, x, y, z)."""
        return torch.cat([x, self.body(x)], dim=1)


class UNet(nn.Sequential):
    """The U-Net of Pix2Pix in 3D: (B, 1, X, Y, Z), edges multiples of 2**levels -> the same shape, -1 to 1."""

    def __init__(self, width: int, levels: int):
        widths = [width * min(2**level, WIDEST) for level in range(levels)]
        level: nn.Module | None = None
        for outer, inner in reversed(list(zip(widths, widths[1:], strict=False))):
            level = Level(outer, inner, level, dropout=level is not None and outer == inner)
        assert level is not None
        super().__init__(
            nn.Conv3d(1, width, 4, 2, 1), level, nn.ReLU(), nn.ConvTranspose3d(2 * width, 1, 4, 2, 1), nn.Tanh()
        )


class Edges(nn.Module):
    """Magnitude of Sobel's derivatives, squashed to -1..1; nothing is learned."""

    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        derivative, smoothing = torch.tensor([1.0, 0.0, -1.0]), torch.tensor([1.0, 2.0, 1.0])
        axes = [[derivative if axis == other else smoothing for other in range(3)] for axis in range(3)]
        kernels = torch.stack([torch.einsum("i,j,k->ijk", *lines) for lines in axes])
        self.register_buffer("kernels", kernels[:, None] / 4, persistent=False)

    def forward(self, volume: Tensor) -> Tensor:
        """(B, 1, X, Y, Z), -1 to 1 -> the same shape, -1 where the volume is flat."""
        padded = nn.functional.pad(volume.float(), (1,) * 6, value=-1.0)
        with torch.autocast(volume.device.type, enabled=False):
            slopes = nn.functional.conv3d(padded, self.kernels)
        return 2 * torch.tanh((slopes.square().sum(1, keepdim=True) + 1e-12).sqrt()) - 1


class EaGAN(PairStage):
    """Discriminator of source, target and the target's edges, then the generator."""

    name = "eagan"
    FULL = Form(64, 7, (128, 128, 128), 6, 10_000)
    SMALL = Form(8, 5, (64, 64, 64), 2, 1_000)
    players = (("discriminator",), ("generator",))
    kept = ("generator",)
    constant = 2 / 3

    def __init__(self, form: Form, pair: tuple[int, int], cases: list[TrainingCase], held_out: list[TrainingCase]):
        super().__init__(form, pair, cases, held_out)
        self.generator = UNet(form.width, form.blocks)
        self.discriminator = PatchGAN(3, 3, form.width, batch_norm=True, padding=2)
        self.edges = Edges()
        initialise(self)
        # the authors' code also passes real pairs and, in the generator's turn, its own images through the pool
        self.pool = ImagePool(POOL, (3, *form.window))

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this turn's player, a scalar, and its parts for the curves."""
        source, target = batch["source"], batch["target"]
        if self.turn == 0:
            self.synthetic = self.generator(source).float()
            real, fake = self._judged(source, target), self._judged(source, self.synthetic.detach())
            smoothed = torch.rand(2).tolist()
            loss = 0.5 * (
                lsgan(self.discriminator(real), real_label(smoothed[0]))
                + lsgan(self.discriminator(self.pool(fake)), fake_label(smoothed[1]))
            )
            return loss, {"discriminator": loss}
        with frozen(self.discriminator):
            fooled = lsgan(self.discriminator(self._judged(source, self.synthetic)), real_label(float(torch.rand(()))))
        error, edges = l1(self.synthetic, target), l1(self.edges(self.synthetic), self.edges(target))
        loss = fooled + L1_WEIGHT * error + EDGE_WEIGHT * min(self.spent / RAMP, 1) * edges
        return loss, {"l1": error, "edges": edges, "adversarial": fooled}

    def _judged(self, source: Tensor, image: Tensor) -> Tensor:
        return torch.cat([source, image, self.edges(image)], dim=1)

    def translate(self, source: Tensor) -> Tensor:
        """As in `PairStage`."""
        return self.generator(source)


def real_label(uniform: float) -> float:
    """0.7 to 1.2 for a number from 0 to 1."""
    return 0.7 + 0.5 * uniform


def fake_label(uniform: float) -> float:
    """0 to 0.3 for a number from 0 to 1."""
    return 0.3 * uniform
