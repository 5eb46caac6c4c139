"""Muon (Jordan et al. 2024): momentum whose update of a weight matrix is made orthogonal.

Convolutions count as matrices of output channels by inputs; PyTorch's own Muon takes matrices only. The updates are as
large as AdamW's (Liu et al. 2025, arXiv 2502.16982), so that both share a learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modfill.model.config import StageConfig

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration
ITERATIONS = 5
ADAMW_SIZE = 0.2  # root mean square of AdamW's updates


class Muon(torch.optim.Optimizer):
    """For weights of three or more dimensions: convolutions, and stacks of matrices (N, in, out)."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = closure() if closure else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                momentum = state.setdefault("momentum", torch.zeros_like(p))
                momentum.mul_(group["momentum"]).add_(p.grad)
                update = orthogonal(_matrices(p.grad + group["momentum"] * momentum)).view_as(p)
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * update)
        return loss


def with_adamw(
    parameters: Mapping[str, nn.Parameter], heavy: Collection[str], config: StageConfig
) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters but those named in `heavy`, and Muon for these."""
    rate, decay = config.learning_rate, config.weight_decay
    light = [p for name, p in parameters.items() if name not in heavy]
    return [
        torch.optim.AdamW(light, lr=rate, betas=(0.9, 0.99), weight_decay=decay),
        Muon([parameters[name] for name in sorted(heavy)], lr=rate, weight_decay=decay),
    ]


def _matrices(weight: Tensor) -> Tensor:
    """A stack of matrices as it is, a convolution's weight as one matrix."""
    return weight if weight.ndim == 3 else weight.flatten(1)[None]


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices (N, rows, columns), roughly, times AdamW's size."""
    rows, columns = matrices.shape[1:]
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    x = x.mT if rows > columns else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) * 1.01 + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    x = x.mT if rows > columns else x
    return x.to(matrices.dtype) * (ADAMW_SIZE * max(rows, columns) ** 0.5)
