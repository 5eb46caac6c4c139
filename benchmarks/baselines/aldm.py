"""ALDM as in its paper (Kim & Park, WACV 2024): VQGAN, MS-SPADE translator of its Table B, latent diffusion.

One network translates every modality into every other. The autoencoder, the translator on its frozen latents and the
denoiser train one after the other. Where the paper leaves a choice: the perceptual loss compares gradients, because the
weights of the usual one must be downloaded; the denoiser's steps are DDIM's; no weights are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.baselines.cyclegan import l1
from benchmarks.baselines.pair import Form, PairStage
from benchmarks.baselines.parts import PatchGAN, frozen
from modfill.modalities import MODALITIES
from modfill.model.autoencoder import Autoencoder
from modfill.model.config import AutoencoderConfig
from modfill.training.data import TrainingCase
from modfill.training.losses import hinge, multiscale_gradient

AUTOENCODER, TRANSLATOR = 0.4, 0.6  # shares of the budget at which these two stop learning
ADVERSARIAL, ADVERSARIAL_FROM = 0.8, 0.1  # weight, and share of the budget before it
TIMES, BETAS = 1000, (0.0015, 0.0195)


@dataclass(frozen=True)
class ALDMForm(Form):
    """Sizes: `width` and `blocks` are of the denoiser and of the discriminator.

    Attributes:
        autoencoder: Table A.
        translator: Table B: channels of the stem, of two residual blocks and of four SPADE blocks.
        sampling_steps: of DDIM.
        rate: of learning.
    """

    autoencoder: AutoencoderConfig
    translator: tuple[int, ...]
    sampling_steps: int
    rate: float


class MSSpade(nn.Module):
    """norm(h) * (1 + gamma(h)) + beta(h), with a gamma and a beta for each target, read from h itself."""

    def __init__(self, channels: int, modalities: int):
        super().__init__()
        hidden = channels // 2  # 128 for 256, as in SPADE (Park et al. 2019)
        self.norm = nn.InstanceNorm3d(channels)
        self.modulations = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(channels, hidden, 3, padding=1), nn.ReLU(), nn.Conv3d(hidden, 2 * channels, 3, padding=1)
            )
            for _ in range(modalities)
        )

    def forward(self, h: Tensor, target: int) -> Tensor:
        """(B, C, x, y, z) -> the same shape, for the target of this index."""
        gamma, beta = self.modulations[target](h).chunk(2, dim=1)
        return self.norm(h) * (1 + gamma) + beta


class Block(nn.Module):
    """Conv 3, ReLU, normalisation twice, around an identity (a 1x1x1 convolution where the width changes).

    Args:
        channels, out_channels: of input and output.
        modalities: how many targets MS-SPADE is switched between; 0 normalises without it.
    """

    def __init__(self, channels: int, out_channels: int, modalities: int):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv3d(c, out_channels, 3, padding=1) for c in (channels, out_channels))
        self.norms = nn.ModuleList(
            MSSpade(out_channels, modalities) if modalities else nn.InstanceNorm3d(out_channels) for _ in "12"
        )
        self.skip = nn.Conv3d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, target: int) -> Tensor:
        """(B, channels, x, y, z) -> (B, out_channels, x, y, z), for the target of this index."""
        h = x
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            h = torch.relu(convolution(h))
            h = norm(h, target) if isinstance(norm, MSSpade) else norm(h)
        return self.skip(x) + h


class Translator(nn.Module):
    """Table B: latents of a source -> target-like latents."""

    def __init__(self, channels: int, widths: tuple[int, ...], modalities: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(channels, widths[0], 7, padding=3), nn.InstanceNorm3d(widths[0]), nn.ReLU())
        pairs = zip(widths, widths[1:], strict=False)
        self.blocks = nn.ModuleList(
            Block(a, b, modalities if number >= 2 else 0) for number, (a, b) in enumerate(pairs)
        )
        self.head = nn.Conv3d(widths[-1], channels, 7, padding=3)

    def forward(self, latent: Tensor, target: int) -> Tensor:
        """(B, C, x, y, z) -> the same shape, for the target of this index."""
        h = self.stem(latent)
        for block in self.blocks:
            h = block(h, target)
        return self.head(h)


class ALDM(PairStage):
    """All three networks, each in its share of the budget; a batch has one source and one target of any modalities."""

    name = "aldm"
    FULL = ALDMForm(128, 2, (192, 192, 144), 1, 400_000, AutoencoderConfig(),
                    (128, 256, 256, 256, 256, 256, 128), 50, 2e-6)  # fmt: skip
    SMALL = ALDMForm(16, 1, (32, 32, 32), 1, 1_000, AutoencoderConfig(1, (8, 16, 16), 1, 3, 512),
                     (16, 32, 32, 32, 32, 32, 16), 8, 1e-3)  # fmt: skip
    players = (("autoencoder", "discriminator", "translator", "denoiser"),)
    kept = ("autoencoder", "translator", "denoiser", "deviation")
    universal = True
    form: ALDMForm
    deviation: Tensor  # of the latents
    alphas: Tensor  # cumulative products of 1 - beta

    def __init__(
        self,
        form: ALDMForm,
        pair: tuple[int, int],
        cases: list[TrainingCase],
        held_out: list[TrainingCase],
        modalities: int = len(MODALITIES),
    ):
        from monai.networks.nets import DiffusionModelUNet

        super().__init__(form, pair, cases, held_out)
        self.modalities = modalities
        channels, width = form.autoencoder.latent_channels, form.width
        self.autoencoder = Autoencoder(form.autoencoder)
        self.translator = Translator(channels, form.translator, modalities)
        self.discriminator = PatchGAN(3, 1, width // 2)
        self.denoiser = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=2 * channels,
            out_channels=channels,
            num_res_blocks=form.blocks,
            channels=(width, 2 * width, 4 * width),
            attention_levels=(False, False, True),
            norm_num_groups=min(32, width // 2),
            num_head_channels=min(64, 4 * width),
            with_conditioning=True,
            cross_attention_dim=modalities,
        )
        betas = torch.linspace(BETAS[0] ** 0.5, BETAS[1] ** 0.5, TIMES, dtype=torch.float64) ** 2
        self.register_buffer("alphas", torch.cumprod(1 - betas, 0).float(), persistent=False)
        self.register_buffer("deviation", torch.ones(()))

    def optimisers(self, parameters: Mapping[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
        """AdamW for everything; what has no gradient stays as it is."""
        return [torch.optim.AdamW(parameters.values(), lr=self.form.rate)]

    def learning_rate(self, step: int) -> float:
        """Constant."""
        return self.form.rate

    def batch(self, rng: np.random.Generator) -> Mapping[str, Tensor]:
        """Draw the inputs of one step, of two modalities."""
        source, target = rng.permutation(self.modalities)[:2].tolist()
        self.pair = source, target
        return super().batch(rng)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the network that is learning, a scalar, and its parts for the curves."""
        source, target = batch["source"], batch["target"]
        learning = self.spent < AUTOENCODER
        self.autoencoder.train(learning)  # a codebook that learns moves its unused codes
        if learning:
            return self._autoencoder(torch.cat([source, target]))
        with frozen(self.autoencoder):
            latents = self._encoded(source), self._encoded(target)
            if self.spent < TRANSLATOR:
                return self._translator(*latents, target)
        with torch.no_grad():
            target_like = self.translator(latents[0], self.pair[1])
        return self._denoiser(target_like, latents[1])

    def _autoencoder(self, volume: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        given, quantisation, latent = self.autoencoder(volume)
        given = given.float()
        self.deviation.lerp_(latent.detach().float().std(), 0.05)
        parts = {"l1": l1(given, volume), "quantisation": quantisation, "gradients": multiscale_gradient(given, volume)}
        loss = torch.stack(list(parts.values())).sum()
        if self.spent >= ADVERSARIAL_FROM:
            with frozen(self.discriminator):
                parts["adversarial"] = -self.discriminator(given).float().mean()
            real, fake = self.discriminator(volume), self.discriminator(given.detach())
            parts["discriminator"] = hinge(real.float(), fake.float())
            loss = loss + ADVERSARIAL * parts["adversarial"] + parts["discriminator"]
        return loss, parts

    def _translator(self, source: Tensor, target: Tensor, volume: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        given = self.translator(source, self.pair[1])
        parts = {
            "latent": l1(given, target),
            "decoded": l1(self._decoded(given), volume),
            "cycle": l1(self.translator(given, self.pair[0]), source),
        }
        return torch.stack(list(parts.values())).sum(), parts

    def _denoiser(self, target_like: Tensor, clean: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        time = torch.randint(TIMES, (len(clean),)).to(clean.device)
        noise = torch.randn(clean.shape).to(clean.device)
        alpha = self.alphas[time].view(-1, 1, 1, 1, 1)
        given = self._noise(alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, time, target_like)
        loss = (given - noise).square().mean()
        return loss, {"diffusion": loss}

    def _encoded(self, volume: Tensor) -> Tensor:
        return self.autoencoder.encode(volume).float() / self.deviation

    def _decoded(self, latent: Tensor) -> Tensor:
        return self.autoencoder.decode(self.autoencoder.regularise(latent * self.deviation)[0])

    def _noise(self, noisy: Tensor, time: Tensor, target_like: Tensor) -> Tensor:
        """The noise in latents; the context is the target as one token."""
        context = nn.functional.one_hot(torch.tensor([[self.pair[1]]]), self.modalities).float().to(noisy.device)
        context = context.expand(len(noisy), -1, -1)
        return self.denoiser(torch.cat([noisy, target_like], dim=1), timesteps=time, context=context).float()

    def translate(self, source: Tensor) -> Tensor:
        """As in `PairStage`, from the same noise for all crops: DDIM (Song et al. 2021) from noise to latents."""
        target_like = self.translator(self._encoded(source), self.pair[1]).float()
        noise = torch.randn(target_like.shape[1:], generator=torch.Generator().manual_seed(0)).to(source.device)
        latent = noise.expand_as(target_like)
        times = torch.linspace(TIMES - 1, 0, self.form.sampling_steps + 1)[:-1].round().long().tolist()
        for time, following in zip(times, [*times[1:], None], strict=True):
            alpha = self.alphas[time]
            noise = self._noise(latent, torch.full((len(latent),), time, device=latent.device), target_like)
            clean = (latent - (1 - alpha).sqrt() * noise) / alpha.sqrt()
            ahead = torch.ones(()) if following is None else self.alphas[following]
            latent = ahead.sqrt() * clean + (1 - ahead).sqrt() * noise
        return self._decoded(latent)

    def validate(self) -> float:
        """Mean PSNR of the held-out cases, each for another pair."""
        values = []
        for index, case in enumerate(self.held_out):
            self.pair = (index + 1) % self.modalities, index % self.modalities
            values.append(self.psnr(case))
        return float(np.mean(values))
