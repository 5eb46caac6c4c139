"""DDIM (Song et al. 2021) as a pure function over a denoiser."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


def ddim(
    predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor, alphas_bar: Tensor, steps: int, prediction: str
) -> Tensor:
    """Walk from pure noise to a clean latent, deterministically.

    Args:
        predict: (noisy latent (B, C, x, y, z), diffusion step (B,)) -> noise or clean latent.
        noise: standard normal start.
        alphas_bar: cumulative products (T,) of the schedule.
        steps: network evaluations; 1 gives the mean of a network that predicts the clean latent.
        prediction: "epsilon" or "sample", what `predict` estimates.

    Returns:
        The clean latent, same shape as `noise`.
    """
    x = noise
    times = torch.linspace(len(alphas_bar) - 1, 0, steps + 1)[:-1].round().long().tolist()
    for index, time in enumerate(times):
        alpha = alphas_bar[time]
        out = predict(x, torch.full((len(x),), time, device=x.device)).float()
        if prediction == "sample":
            clean, epsilon = out, (x - alpha.sqrt() * out) / (1 - alpha).sqrt()
        else:
            clean, epsilon = (x - (1 - alpha).sqrt() * out) / alpha.sqrt(), out
        if index + 1 < len(times):
            following = alphas_bar[times[index + 1]]
            x = following.sqrt() * clean + (1 - following).sqrt() * epsilon
    return clean


def generator(seed: int, case_id: str, target: str, sample: int) -> torch.Generator:
    """The generator of one sample's noise, seeded by its arguments alone: batch order and other cases do not matter.

    It is on the CPU, so that every device starts from the same noise.
    """
    text = f"{seed} {case_id} {target} {sample}"
    digest = hashlib.sha256(text.encode("utf8", "surrogatepass")).digest()  # names of files need not be Unicode
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)
