"""From noise to a clean latent: DPM-Solver++ on the noise levels of EDM, and the noise of a sample."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

LOWEST, HIGHEST = 0.02, 80.0  # noise levels, in deviations of the residual
CURVATURE = 7.0  # rho of Karras et al. (2022)


def noise_levels(steps: int) -> list[float]:
    """Descending noise levels (Karras et al. 2022, equation 5), one per step, and 0 at the end."""
    roots = torch.linspace(HIGHEST ** (1 / CURVATURE), LOWEST ** (1 / CURVATURE), steps, dtype=torch.float64)
    return [*(roots**CURVATURE).tolist(), 0.0]


def sample(denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Walk from pure noise to a clean residual: DPM-Solver++ (2M) of Lu et al. (2022, arXiv 2211.01095).

    Args:
        denoise: (noisy (B, C, x, y, z), noise level (B,)) -> clean.
        noise: standard normal, the start.
        steps: evaluations of the network.

    Returns:
        The clean residual, same shape as `noise`.
    """
    levels = torch.tensor(noise_levels(steps), dtype=torch.float32)
    x, before, earlier = levels[0] * noise, None, levels[0]
    for level, following in zip(levels, levels[1:], strict=False):
        clean = denoise(x, level.expand(len(x)).to(x.device))
        if following == 0:
            return clean
        direction = clean
        if before is not None:
            ratio = (earlier / level).log() / (level / following).log()
            direction = clean + (clean - before) / (2 * ratio)
        x = following / level * x + (1 - following / level) * direction
        before, earlier = clean, level
    raise ValueError(f"steps must be at least 1, got {steps}")


def generator(case_id: str, target: str, seed: int) -> torch.Generator:
    """The generator of a sample's noise, seeded by its arguments alone: the order of cases does not matter.

    It is on the CPU, so that every device starts from the same noise.
    """
    text = f"{seed} {case_id} {target}"
    digest = hashlib.sha256(text.encode("utf8", "surrogatepass")).digest()  # names of files need not be Unicode
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)
