"""Seconds of the networks alone on a volume of 192x192x144: modfill's, the U-Net's, and published models'.

Weights are random, which does not change the time. Repeated steps are timed once and multiplied.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.baselines.unet import UNetStage
from modfill.completer import ModalityCompleter
from modfill.modalities import MODALITIES
from modfill.model.config import PRESETS
from modfill.model.device import fast_precision
from modfill.model.synthesiser import Synthesiser

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


def aldm_seconds(preset: str, share: float = 1.0) -> dict[str, float]:
    """Seconds of one 1→1 translation of 192x192x144 by a published ALDM configuration, from its parts.

    Args:
        preset: "released" or "paper".
        share: of the volume's depth that the autoencoder is timed on (its cost is proportional to the voxels).
    """
    model = Synthesiser(PRESETS[preset]).eval()
    steps = PRESETS[preset].denoiser.sampling_steps
    piece = torch.randn(1, 1, PAPER[0], PAPER[1], int(PAPER[2] * share))
    factor, channels = PRESETS[preset].autoencoder.factor, PRESETS[preset].autoencoder.latent_channels
    latent = torch.randn(1, channels, *(n // factor for n in PAPER))
    small = latent[..., : piece.shape[-1] // factor]
    with torch.inference_mode(), fast_precision(CPU):
        encode = timed(lambda: model.encode_latents(piece)) / share
        translate = timed(lambda: model.translator.fuse(latent, (0,), 1))
        context = model.denoiser.context(1, [0])
        step = timed(lambda: model.denoiser(latent, torch.tensor([500]), latent, context), repeats=2)
        decode = timed(lambda: model.decode(small)) / share
    return {"encode": encode, "translate": translate, "one step": step, "steps": steps, "decode": decode,
            "seconds": encode + translate + steps * step + decode}  # fmt: skip


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


def modfill_seconds(completer: ModalityCompleter, sources: int) -> dict[str, float]:
    """Seconds of modfill's networks on 192x192x144, one target.

    The refiner works on the brain alone, so there is one: an ellipsoid of 1.6 litres, as an adult's.
    """
    model = completer.networks.load().model
    preset = model.preset
    grid = torch.meshgrid(*(torch.linspace(-n / 2, n / 2, n) for n in PAPER), indexing="ij")
    brain = sum((x / radius).square() for x, radius in zip(grid, BRAIN, strict=True)) < 1
    volumes = {m: torch.randn(PAPER) * brain for m in MODALITIES[:sources]}
    noise = torch.zeros(1, preset.autoencoder.latent_channels, *(n // preset.autoencoder.factor for n in PAPER))

    def complete() -> None:
        model.predict(model.encode(volumes), len(MODALITIES) - 1, noise, None, "mean")

    with torch.inference_mode(), fast_precision(CPU):
        return {"seconds": timed(complete, repeats=2)}
