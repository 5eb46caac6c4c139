"""NICE-GAN (Chen et al. 2020): the first layers of each discriminator encode for the translation from its domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from benchmarks.baselines.cyclegan import l1
from benchmarks.baselines.pair import Form, PairStage
from benchmarks.baselines.parts import frozen, lsgan
from modfill.training.data import TrainingCase

CYCLE, RECONSTRUCTION = 10.0, 10.0


class Judged(NamedTuple):
    """A discriminator's scores of small and large patches and of the attention, and the latent (B, C, X / 4, Y / 4)."""

    local: Tensor
    broad: Tensor
    attention: Tensor
    latent: Tensor


class Discriminator(nn.Module):
    """An encoder with attention, and two heads, all but a 1x1 convolution spectrally normalised."""

    def __init__(self, width: int):
        super().__init__()
        w = width
        self.encoder = nn.Sequential(*_convolution(1, w, 2), *_convolution(w, 2 * w, 2))
        self.attention = spectral_norm(nn.Linear(4 * w, 1, bias=False))
        self.mix = nn.Conv2d(4 * w, 2 * w, 1)
        self.share = nn.Parameter(torch.zeros(1))  # of the attended features
        self.shared = nn.Sequential(*_convolution(2 * w, 4 * w, 2))
        self.local = nn.Sequential(*_convolution(4 * w, 8 * w, 1), *_scores(8 * w))
        self.broad = nn.Sequential(*_convolution(4 * w, 8 * w, 2), *_convolution(8 * w, 16 * w, 2),
                                   *_convolution(16 * w, 32 * w, 1), *_scores(32 * w))  # fmt: skip

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image (B, 1, X, Y) -> the latent (B, 2 * width, X / 4, Y / 4) and the score of the attention (B, 1)."""
        features = self.encoder(image)
        score = self.attention(torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1))
        weight = cast(Tensor, self.attention.weight)[:, :, None, None]
        attended = self.mix(torch.cat([features, features], dim=1) * weight)
        return nn.functional.leaky_relu(self.share * attended + features, 0.2), score

    def forward(self, image: Tensor) -> Judged:
        """Judge images (B, 1, X, Y)."""
        latent, attention = self.encode(image)
        shared = self.shared(latent)
        return Judged(self.local(shared), self.broad(shared), attention, latent)


class Decoder(nn.Module):
    """Latents of the other domain's discriminator -> images of this domain; the paper's light form."""

    def __init__(self, width: int, blocks: int):
        super().__init__()
        w = 4 * width
        self.stem = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(w // 2, w, 3), MixedNorm(w), nn.ReLU())
        self.style = nn.Sequential(nn.Linear(w, w, bias=False), nn.ReLU(), nn.Linear(w, w, bias=False), nn.ReLU())
        self.gamma, self.beta = nn.Linear(w, w, bias=False), nn.Linear(w, w, bias=False)
        self.blocks = nn.ModuleList(StyledBlock(w) for _ in range(blocks))
        self.up = nn.Sequential(*_doubling(w), *_doubling(w // 2))
        self.head = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(w // 4, 1, 7, bias=False), nn.Tanh())

    def forward(self, latent: Tensor) -> Tensor:
        """(B, 2 * width, x, y) -> (B, 1, 4 x, 4 y), -1 to 1."""
        h = self.stem(latent)
        style = self.style(h.mean((2, 3)))
        gamma, beta = (linear(style)[:, :, None, None] for linear in (self.gamma, self.beta))
        for block in self.blocks:
            h = block(h, gamma, beta)
        return self.head(self.up(h))


class AdaptiveNorm(nn.Module):
    """AdaILN: a learned mixture of instance and layer normalisation per channel; scale and shift are given."""

    start = (3.2, 1.0)  # logits of instance and layer normalisation

    def __init__(self, channels: int):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(self.start).repeat(channels, 1))

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """X (B, C, X, Y); gamma and beta (B, C, 1, 1) or (C, 1, 1)."""
        x = x.float()
        both = torch.stack([_normalised(x, (2, 3)), _normalised(x, (1, 2, 3))], dim=-1)
        mixed = (both * torch.softmax(self.logits, dim=1)[:, None, None]).sum(-1)
        return mixed * gamma + beta


class MixedNorm(AdaptiveNorm):
    """ILN: the same with a scale and a shift of its own."""

    start = (1.0, 3.2)

    def __init__(self, channels: int):
        super().__init__(channels)
        self.gamma, self.beta = nn.Parameter(torch.ones(channels, 1, 1)), nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(B, C, X, Y) -> the same shape."""
        return super().forward(x, self.gamma, self.beta)


class StyledBlock(nn.Module):
    """Conv 3, AdaILN, ReLU, conv 3, AdaILN, around an identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=False)) for _ in range(2)
        )
        self.norms = nn.ModuleList(AdaptiveNorm(channels) for _ in range(2))

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """(B, C, X, Y) -> the same shape."""
        h = torch.relu(self.norms[0](self.convolutions[0](x), gamma, beta))
        return x + self.norms[1](self.convolutions[1](h), gamma, beta)


class NICEGAN(PairStage):
    """Discriminators first, encoders included; then the decoders alone, by gradients through the new encoders."""

    name = "nicegan"
    FULL = Form(64, 6, (240, 240, 1), 1, 100_000)
    SMALL = Form(8, 4, (96, 96, 1), 1, 2_000)  # a smaller window is too small for the broad head
    paired = False
    players = (("judge_target", "judge_source"), ("to_target", "to_source"))
    kept = ("judge_source.encoder", "judge_source.attention", "judge_source.mix", "judge_source.share", "to_target")
    rate, weight_decay = 1e-4, 1e-4

    def __init__(self, form: Form, pair: tuple[int, int], cases: list[TrainingCase], held_out: list[TrainingCase]):
        super().__init__(form, pair, cases, held_out)
        self.judge_target, self.judge_source = (Discriminator(form.width) for _ in range(2))
        self.to_target, self.to_source = (Decoder(form.width, form.blocks) for _ in range(2))

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this turn's player, a scalar, and its parts for the curves."""
        return (self._discriminators, self._decoders)[self.turn](batch["source"], batch["target"])

    def _discriminators(self, source: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        real_source, real_target = self.judge_source(source), self.judge_target(target)
        with torch.no_grad():
            like_target, like_source = self.to_target(real_source.latent), self.to_source(real_target.latent)
        loss = judged_as(real_source, 1) + judged_as(real_target, 1)
        loss = loss + judged_as(self.judge_target(like_target), 0) + judged_as(self.judge_source(like_source), 0)
        return loss, {"discriminators": loss}

    def _decoders(self, source: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with frozen(self.judge_target, self.judge_source):
            of_source, of_target = self.judge_source.encode(source)[0], self.judge_target.encode(target)[0]
            like_target, like_source = self.to_target(of_source), self.to_source(of_target)
            as_target, as_source = self.judge_target(like_target), self.judge_source(like_source)
            fooled = judged_as(as_target, 1) + judged_as(as_source, 1)
            cycle = l1(self.to_source(as_target.latent), source) + l1(self.to_target(as_source.latent), target)
            own = l1(self.to_source(of_source), source) + l1(self.to_target(of_target), target)
        parts = {"adversarial": fooled, "cycle": cycle, "reconstruction": own}
        return fooled + CYCLE * cycle + RECONSTRUCTION * own, parts

    def translate(self, source: Tensor) -> Tensor:
        """As in `PairStage`."""
        return self.to_target(self.judge_source.encode(source)[0])


def judged_as(judged: Judged, label: float) -> Tensor:
    """The losses of the three scores against a label, summed."""
    return lsgan(judged.local, label) + lsgan(judged.broad, label) + lsgan(judged.attention, label)


def _convolution(channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    convolution = spectral_norm(nn.Conv2d(channels, out_channels, 4, stride))
    return [nn.ReflectionPad2d(1), convolution, nn.LeakyReLU(0.2)]


def _scores(channels: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d(1), spectral_norm(nn.Conv2d(channels, 1, 4, bias=False))]


def _doubling(channels: int) -> list[nn.Module]:
    half = channels // 2
    return [
        nn.ReflectionPad2d(1), nn.Conv2d(channels, half, 3, bias=False), MixedNorm(half), nn.ReLU(),
        nn.Conv2d(half, 4 * half, 1), nn.PixelShuffle(2), MixedNorm(half), nn.ReLU(),
    ]  # fmt: skip


def _normalised(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    variance, mean = torch.var_mean(x, axes, correction=1, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + 1e-5)
