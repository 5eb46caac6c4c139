"""The two regularisations of the latent space: a codebook (VQ) and a Gaussian (KL, the paper's ablation d)."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn


class VectorQuantizer(nn.Module):
    """Replaces each latent voxel by its nearest code; gradients pass straight through (van den Oord et al. 2017).

    The nearest code is found with a k-d tree: with 3 or 4 dimensions that is exact and hundreds of times faster and
    smaller than the full distance matrix. Codes that no voxel chose for a while are moved onto random voxels.
    """

    unused_for: Tensor

    def __init__(self, codes: int, dimensions: int, commitment: float):
        super().__init__()
        self.codebook = nn.Embedding(codes, dimensions)
        nn.init.uniform_(self.codebook.weight, -1.0, 1.0)
        self.commitment = commitment
        self.register_buffer("unused_for", torch.zeros(codes, dtype=torch.long))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise.

        Args:
            z: latents (B, C, x, y, z), any float type; the search runs in float32.

        Returns:
            The quantised latents, same shape, and the loss (codebook + commitment, a scalar).
        """
        z = z.float()
        flat = z.movedim(1, -1).reshape(-1, z.shape[1])
        index = self.nearest(flat)
        if self.training:
            self._revive(flat, index)
        quantised = self.codebook(index).reshape(z.movedim(1, -1).shape).movedim(-1, 1)
        loss = (quantised - z.detach()).square().mean() + self.commitment * (quantised.detach() - z).square().mean()
        return z + (quantised - z).detach(), loss

    def nearest(self, vectors: Tensor) -> Tensor:
        """Indices (N,) of the nearest codes to `vectors` (N, C)."""
        from scipy.spatial import cKDTree  # a third of a second, and completion needs no codes

        tree = cKDTree(self.codebook.weight.detach().float().cpu().numpy())
        index = tree.query(vectors.detach().float().cpu().numpy(), workers=-1)[1]
        return torch.from_numpy(np.asarray(index, dtype=np.int64)).to(vectors.device)

    @torch.no_grad()
    def _revive(self, flat: Tensor, index: Tensor, patience: int = 200) -> None:
        self.unused_for += 1
        self.unused_for[index] = 0
        dead = torch.nonzero(self.unused_for > patience).flatten()
        if len(dead):
            drawn = torch.linspace(0, len(flat) - 1, len(dead), device=flat.device).long()
            self.codebook.weight[dead] = flat[drawn]
            self.unused_for[dead] = 0
        if dist.is_initialized():  # every rank saw other voxels; rank 0's codes hold for all
            dist.broadcast(self.codebook.weight.data, 0)


class GaussianRegulariser(nn.Module):
    """A diagonal Gaussian with a learned variance per channel, held near the unit Gaussian (Kingma & Welling 2014).

    While training, the latent is sampled from it; otherwise it is the mean.
    """

    def __init__(self, dimensions: int):
        super().__init__()
        self.log_variance = nn.Parameter(torch.full((dimensions,), -4.0))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Sample (when training) and return the latents (B, C, x, y, z) with the KL divergence per voxel, a scalar."""
        z = z.float()
        log_variance = self.log_variance.view(-1, 1, 1, 1)
        divergence = 0.5 * (z.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        if self.training:
            z = z + torch.randn_like(z) * (0.5 * log_variance).exp()
        return z, divergence
