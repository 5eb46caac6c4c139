"""The 3D VQGAN that compresses one modality's volume into latents (paper, section 3.1 and Table A)."""

from __future__ import annotations

from torch import Tensor, nn

from modfill.model.config import AutoencoderConfig
from modfill.model.layers import ResidualBlock, VoxelNorm, fold, group_norm, unfold
from modfill.model.quantizer import GaussianRegulariser, VectorQuantizer


class Autoencoder(nn.Module):
    """One encoder and decoder shared by all modalities; one channel in, one out.

    Attributes:
        factor: voxels of the volume along the edge of one latent voxel.
    """

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.fold, self.factor, self.codes = config.fold, config.factor, config.codes
        self.encoder = _encoder(config)
        self.decoder = _decoder(config)
        voxels = config.factor**3
        self.encoder_shortcut = nn.Conv3d(voxels, config.latent_channels, 1) if config.shortcut else None
        self.decoder_shortcut = nn.Conv3d(config.latent_channels, voxels, 1) if config.shortcut else None
        self.regulariser: VectorQuantizer | GaussianRegulariser = (
            GaussianRegulariser(config.latent_channels)
            if config.codes is None
            else VectorQuantizer(config.codes, config.latent_channels, config.commitment)
        )

    def encode(self, volume: Tensor) -> Tensor:
        """Volume (B, 1, X, Y, Z), normalised, edges multiples of `factor` -> latents before the codebook."""
        latent = self.encoder(fold(volume, self.fold))
        return latent if self.encoder_shortcut is None else latent + self.encoder_shortcut(fold(volume, self.factor))

    def regularise(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Latents after the codebook or the Gaussian, and its loss."""
        return self.regulariser(latent)

    def decode(self, latent: Tensor) -> Tensor:
        """Latents (B, C, x, y, z) -> volume (B, 1, X, Y, Z), normalised."""
        volume = unfold(self.decoder(latent), self.fold)
        return volume if self.decoder_shortcut is None else volume + unfold(self.decoder_shortcut(latent), self.factor)

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct: returns the volume, the regularisation loss and the latents."""
        latent, loss = self.regularise(self.encode(volume))
        return self.decode(latent), loss, latent


def _encoder(config: AutoencoderConfig) -> nn.Sequential:
    widths, v = config.channels, config.voxelwise_norm
    layers: list[nn.Module] = [nn.Conv3d(config.fold**3, widths[0], 3, padding=1)]
    for level, width in enumerate(widths):
        if level:
            layers.append(nn.Conv3d(widths[level - 1], width, 2, stride=2))
        layers += [ResidualBlock(width, width, v) for _ in range(config.blocks)]
    layers += [ResidualBlock(widths[-1], widths[-1], v)]
    layers += [_norm(widths[-1], v), nn.SiLU(), nn.Conv3d(widths[-1], config.latent_channels, 3, padding=1)]
    return nn.Sequential(*layers)


def _decoder(config: AutoencoderConfig) -> nn.Sequential:
    widths, v = config.channels, config.voxelwise_norm
    layers: list[nn.Module] = [nn.Conv3d(config.latent_channels, widths[-1], 3, padding=1)]
    layers += [ResidualBlock(widths[-1], widths[-1], v)]
    for level in reversed(range(len(widths))):
        layers += [ResidualBlock(widths[level], widths[level], v) for _ in range(config.blocks)]
        if level:
            layers.append(nn.ConvTranspose3d(widths[level], widths[level - 1], 2, stride=2))
    layers += [_norm(widths[0], v), nn.SiLU(), nn.Conv3d(widths[0], config.fold**3, 3, padding=1)]
    return nn.Sequential(*layers)


def _norm(channels: int, voxelwise: bool) -> nn.Module:
    return VoxelNorm(channels) if voxelwise else group_norm(channels)
