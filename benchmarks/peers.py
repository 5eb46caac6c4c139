"""Seconds of the networks alone on a volume of 192x192x144: modfill's, the U-Net's, and published models'.

Weights are random, which does not change the time. Repeated steps are timed once and multiplied.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.baselines.unet import UNetStage
from modfill.completer import ModalityCompleter
from modfill.modalities import MODALITIES
from modfill.model.autoencoder import Autoencoder
from modfill.model.config import AutoencoderConfig
from modfill.model.device import fast_precision
from modfill.settings import Mode, Settings

PAPER = (192, 192, 144)  # voxels
BRAIN = (68, 86, 66)  # half axes, voxels
CPU = torch.device("cpu")


def timed(work: Callable[[], Any], repeats: int = 1) -> float:
    """Seconds of one call, the fastest of several."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def convolution_peak() -> float:
    """TFLOP/s of a 3x3x3 convolution of 64 channels in modfill's precision: the ceiling for everything else."""
    layer, x = nn.Conv3d(64, 64, 3, padding=1), torch.randn(1, 64, 48, 48, 48)
    with torch.inference_mode(), fast_precision(CPU):
        seconds = timed(lambda: layer(x), repeats=5)
    return 2 * 64 * 64 * 27 * x[0, 0].numel() / seconds / 1e12


class Published(NamedTuple):
    """A configuration of ALDM: its autoencoder, and its denoiser's evaluations for a sample."""

    autoencoder: AutoencoderConfig
    steps: int


ALDM = {
    "released": Published(AutoencoderConfig(1, (64, 64, 128), 2, 4, 8192), 200),
    "paper": Published(AutoencoderConfig(1, (256, 512, 512), 2, 3, 8192), 50),
}


def aldm_seconds(name: str, share: float = 1.0) -> dict[str, float]:
    """Seconds of one 1→1 translation of 192x192x144 by ALDM, from its parts, but for its translator (one or two %).

    Args:
        name: a key of `ALDM`.
        share: of the volume's depth that the autoencoder is timed on (its cost is proportional to the voxels).
    """
    from monai.networks.nets import DiffusionModelUNet

    config, steps = ALDM[name]
    autoencoder, channels = Autoencoder(config).eval(), config.latent_channels
    net = DiffusionModelUNet(spatial_dims=3, in_channels=2 * channels, out_channels=channels, channels=(128, 256, 512),
                             attention_levels=(False, False, True), num_res_blocks=2, norm_num_groups=32,
                             num_head_channels=64, with_conditioning=True, cross_attention_dim=128).eval()  # fmt: skip
    piece = torch.randn(1, 1, PAPER[0], PAPER[1], int(PAPER[2] * share))
    latents, token = torch.randn(1, 2 * channels, *(n // config.factor for n in PAPER)), torch.randn(1, 1, 128)
    small = latents[:, :channels, ..., : piece.shape[-1] // config.factor]
    with torch.inference_mode(), fast_precision(CPU):
        encode = timed(lambda: autoencoder.regularise(autoencoder.encode(piece))) / share
        step = timed(lambda: net(latents, torch.tensor([500]), token), repeats=2)
        decode = timed(lambda: autoencoder.decode(small)) / share
    return {"encode": encode, "one step": step, "steps": steps, "decode": decode,
            "seconds": encode + steps * step + decode}  # fmt: skip


def wavelet_diffusion_seconds() -> dict[str, float]:
    """Seconds of 1000 steps of a UNet of cWDM's size, 64 to 256 channels.

    Its input is the eight half-resolution wavelet bands of the target and of three sources.
    """
    from monai.networks.nets import DiffusionModelUNet

    net = DiffusionModelUNet(spatial_dims=3, in_channels=32, out_channels=8, channels=(64, 128, 128, 256, 256),
                             attention_levels=(False,) * 5, num_res_blocks=2, norm_num_groups=32).eval()  # fmt: skip
    bands = torch.randn(1, 32, *(-(-n // 32) * 16 for n in PAPER))
    with torch.inference_mode(), fast_precision(CPU):
        step = timed(lambda: net(bands, torch.tensor([500])))
    return {"one step": step, "steps": 1000, "seconds": 1000 * step}


def unet_seconds() -> dict[str, float]:
    """Seconds of the U-Net rival on 192x192x144, all sliding windows included."""
    stage = UNetStage([], []).eval()
    volumes = torch.randn(len(MODALITIES), *PAPER)
    with torch.inference_mode(), fast_precision(CPU):
        return {"seconds": timed(lambda: stage.whole(volumes, (0, 1, 2)))}


def modfill_seconds(completer: ModalityCompleter, sources: int, mode: Mode = "mean") -> dict[str, float]:
    """Seconds of modfill's networks on 192x192x144, one target.

    The decoder works on the brain alone, so there is one: an ellipsoid of 1.6 litres, as an adult's.
    """
    networks = completer.networks.load()
    axes = [np.linspace(-n / 2, n / 2, n) / radius for n, radius in zip(PAPER, BRAIN, strict=True)]
    brain = np.square(np.meshgrid(*axes, indexing="ij")).sum(0) < 1
    rng = np.random.default_rng(0)
    known = completer.modality_set.names
    volumes = {m: rng.standard_normal(PAPER, np.float32) * brain for m in known[:sources]}
    brightness = dict.fromkeys(volumes, (0.5, 0.2, 0.0))

    def complete() -> None:
        networks.predict(networks.encode(volumes, brain), known[-1], brightness=brightness, case_id="case",
                         settings=Settings(mode))  # fmt: skip

    return {"seconds": timed(complete, repeats=2 if mode == "mean" else 1)}
