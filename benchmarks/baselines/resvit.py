"""ResViT (Dalmaz et al. 2022): CycleGAN's generator with batch norm, and a vision transformer within two of its blocks.

The paper's transformer starts from ImageNet weights, which cannot be had here: it starts from random ones, and at the
learning rate of the convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.baselines.cyclegan import l1
from benchmarks.baselines.pair import Form, PairStage
from benchmarks.baselines.parts import (
    PatchGAN,
    ResNetGenerator,
    constant_then_linear,
    frozen,
    initialise,
    lsgan,
    residual_block,
)
from modfill.training.data import TrainingCase

L1_WEIGHT = 100.0
CONVOLUTIONS_ALONE = 2 / 3  # of the budget: 100 epochs, before 50 with the transformer
WITH_TRANSFORMER = (0, 5)  # blocks 1 and 6


@dataclass(frozen=True)
class ViTForm(Form):
    """Sizes with the transformer's: its width, layers and heads."""

    token: int
    layers: int
    heads: int


class Layer(nn.Module):
    """A layer of the transformer, normalised before attention and before the perceptron."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(4 * width, width), nn.Dropout(0.1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, width) -> the same shape."""
        h = self.norms[0](x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.perceptron(self.norms[1](x))


class TransformerBlock(nn.Module):
    """An aggregated residual transformer block: transformer at a sixteenth of the resolution, then convolutions.

    Args:
        channels: of input and output, at a quarter of the resolution.
        tokens: places at a sixteenth.
        encoder: the transformer, which all blocks share.
        token: its width.
    """

    def __init__(self, channels: int, tokens: int, encoder: nn.Module, token: int):
        super().__init__()
        c = channels
        self.down = nn.Sequential(*_convolution(c, 2 * c, stride=2), *_convolution(2 * c, 4 * c, stride=2))
        self.embed, self.dropout = nn.Conv2d(4 * c, token, 1), nn.Dropout(0.1)
        self.place = nn.Parameter(torch.zeros(1, tokens, token))
        self.encoder = encoder
        self.up = nn.Sequential(*_doubling(token, 2 * c), *_doubling(2 * c, c))
        self.compress = nn.Sequential(*_convolution(2 * c, c), *_convolution(c, c)[:-1])
        self.skip = nn.Sequential(nn.Conv2d(2 * c, c, 1, bias=False), nn.BatchNorm2d(c))
        self.convolutions = residual_block(2, c, batch_norm=True)
        self.complete = False  # with the transformer

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, x, y) -> the same shape."""
        return self.convolutions(self._attended(x) if self.complete else x)

    def _attended(self, x: Tensor) -> Tensor:
        grid = self.embed(self.down(x))
        tokens = self.encoder(self.dropout(grid.flatten(2).transpose(1, 2) + self.place))
        both = torch.cat([self.up(tokens.transpose(1, 2).reshape(grid.shape)), x], dim=1)
        return torch.relu(self.compress(both) + self.skip(both))


class ResViT(PairStage):
    """Discriminator of source and target, then the generator; the transformer joins for the last third of the time."""

    name = "resvit"
    FULL = ViTForm(64, 9, (256, 256, 1), 8, 40_000, token=768, layers=12, heads=12)
    SMALL = ViTForm(8, 9, (96, 96, 1), 4, 1_000, token=96, layers=3, heads=4)
    players = (("discriminator",), ("generator",))
    kept = ("generator", "complete")
    complete: Tensor

    def __init__(self, form: ViTForm, pair: tuple[int, int], cases: list[TrainingCase], held_out: list[TrainingCase]):
        super().__init__(form, pair, cases, held_out)
        self.generator, self.discriminator = generator(form), PatchGAN(2, 2, form.width, batch_norm=True)
        initialise(self)
        self.register_buffer("complete", torch.zeros((), dtype=torch.bool))

    def learning_rate(self, step: int) -> float:
        """Constant, then linear to 0, in each of the two phases."""
        phase = self.spent / CONVOLUTIONS_ALONE
        if phase >= 1:
            phase = (self.spent - CONVOLUTIONS_ALONE) / (1 - CONVOLUTIONS_ALONE)
        return self.rate * constant_then_linear(phase, self.constant)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this turn's player, a scalar, and its parts for the curves."""
        source, target = batch["source"], batch["target"]
        if self.turn == 0:
            self.complete.fill_(self.spent >= CONVOLUTIONS_ALONE)
            self.synthetic = self.translate(source)
            real, fake = (self._judge(source, image) for image in (target, self.synthetic.detach()))
            loss = 0.5 * (lsgan(real, 1) + lsgan(fake, 0))
            return loss, {"discriminator": loss}
        with frozen(self.discriminator):
            fooled = lsgan(self._judge(source, self.synthetic), 1)
        error = l1(self.synthetic, target)
        return fooled + L1_WEIGHT * error, {"l1": error, "adversarial": fooled}

    def _judge(self, source: Tensor, image: Tensor) -> Tensor:
        return self.discriminator(torch.cat([source, image], dim=1))

    def translate(self, source: Tensor) -> Tensor:
        """As in `PairStage`."""
        for block in self.generator.blocks:
            if isinstance(block, TransformerBlock):
                block.complete = bool(self.complete)
        return self.generator(source)


def generator(form: ViTForm) -> ResNetGenerator:
    """The generator with its transformer."""
    encoder = nn.Sequential(
        *(Layer(form.token, form.heads) for _ in range(form.layers)), nn.LayerNorm(form.token, eps=1e-6)
    )
    tokens, channels = form.window[0] // 16 * (form.window[1] // 16), 4 * form.width
    blocks = [
        TransformerBlock(channels, tokens, encoder, form.token)
        if number in WITH_TRANSFORMER
        else residual_block(2, channels, batch_norm=True)
        for number in range(form.blocks)
    ]
    return ResNetGenerator(2, form.width, blocks, batch_norm=True)


def _convolution(channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(),
    ]  # fmt: skip


def _doubling(channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.ConvTranspose2d(channels, out_channels, 3, 2, 1, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(),
    ]  # fmt: skip
