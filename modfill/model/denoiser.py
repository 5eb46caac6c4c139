"""The diffusion UNet over [noisy target latent | target-like latent] (paper, sections 3.2 and 3.3, Table C)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modfill.model.config import DenoiserConfig
from modfill.model.layers import fold, unfold


class Denoiser(nn.Module):
    """MONAI's diffusion UNet with cross-attention on modality tokens.

    The paper's context is one one-hot token; softmax over one token is 1, so that it is only a class vector. With
    `source_tokens` the context has a token for the target and one for each source, and attention has a choice.

    A network that predicts the clean latent predicts its difference from the target-like latent.
    """

    alphas_bar: Tensor

    def __init__(self, config: DenoiserConfig, latent_channels: int, modalities: int):
        super().__init__()
        from monai.networks.nets import DiffusionModelUNet

        self.fold, self.prediction, self.source_tokens = config.fold, config.prediction, config.source_tokens
        self.halvings = len(config.channels) - 1
        channels = latent_channels * config.fold**3
        token = config.channels[0]
        self.target_token = nn.Embedding(modalities, token)
        self.source_token = nn.Embedding(modalities, token) if config.source_tokens else None
        self.unet = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=2 * channels,
            out_channels=channels,
            num_res_blocks=config.blocks,
            channels=config.channels,
            attention_levels=(False,) * (len(config.channels) - 1) + (True,),
            norm_num_groups=min(32, config.channels[0] // 2),
            num_head_channels=min(64, config.channels[-1]),
            with_conditioning=True,
            cross_attention_dim=token,
        )
        self.register_buffer("alphas_bar", alphas_bar(config), persistent=False)

    def context(self, target: int, sources: list[int]) -> Tensor:
        """The context tokens (1, 1 + sources, width) of a translation."""
        device = self.target_token.weight.device
        tokens = self.target_token(torch.tensor([target], device=device))
        if self.source_token is not None:
            tokens = torch.cat([tokens, self.source_token(torch.tensor(sources, device=device))])
        return tokens[None]

    def forward(self, noisy: Tensor, step: Tensor, target_like: Tensor, context: Tensor) -> Tensor:
        """Estimate the noise or the clean latent, as `prediction` says.

        Args:
            noisy: noisy target latents (B, C, x, y, z).
            step: diffusion steps (B,), 0 to 999.
            target_like: latents of the same shape.
            context: tokens (B, tokens, width).
        """
        x = torch.cat([fold(noisy, self.fold), fold(target_like, self.fold)], dim=1)
        # on the CPU, a strided bfloat16 convolution leaves an output that is one voxel wide along the last axis as it
        # found it in memory: oneDNN's kernels for AMX do
        if x.shape[-1] <= 2**self.halvings and x.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                out = self.unet(x.float(), timesteps=step, context=context.float())
        else:
            out = self.unet(x, timesteps=step, context=context)
        out = unfold(out, self.fold)
        return target_like + out if self.prediction == "sample" else out

    def noised(self, latent: Tensor, noise: Tensor, step: Tensor) -> Tensor:
        """The forward process: latent at diffusion `step` (B,) for this noise."""
        alpha = self.alphas_bar[step].view(-1, 1, 1, 1, 1)
        return alpha.sqrt() * latent + (1 - alpha).sqrt() * noise


def alphas_bar(config: DenoiserConfig) -> Tensor:
    """Cumulative products of 1 - beta of the scaled-linear schedule, (steps,), float32.

    If the network predicts the clean latent, the schedule is rescaled so that the last step is pure noise (Lin et al.
    2024, arXiv 2305.08891, algorithm 1). With the plain schedule a network learns to average the latent's remainder at
    that step over the volume, and samples that start from pure noise are blotched. A network that predicts the noise
    keeps the plain schedule: it would divide by 0.
    """
    betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.steps, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    if config.prediction == "sample":
        roots = alphas.sqrt()
        alphas = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])).square()
    return alphas.float()
