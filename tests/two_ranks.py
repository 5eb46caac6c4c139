"""One of two ranks that train one small stage: a linear layer under a time budget, or a codebook with dead codes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from modfill.model.config import StageConfig
from modfill.model.quantizer import VectorQuantizer
from modfill.training.loop import Budget, Stage, rank, train


class Clocked(Stage):
    """One rank is slower than the other, as machines are."""

    name = "clocked"
    config = StageConfig(steps=0, share=1, learning_rate=1e-2, warmup=1)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def batch(self, rng: np.random.Generator) -> Mapping[str, Tensor]:
        return {"x": torch.from_numpy(rng.standard_normal((8, 4)).astype(np.float32))}

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        time.sleep(0.005 * rank())
        return (self.layer(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().mean(), {}

    def validate(self) -> float:
        return 0.0


class Coded(Clocked):
    """A codebook most of whose codes nobody uses; each rank sees other vectors."""

    name = "coded"

    def __init__(self) -> None:
        super().__init__()
        self.quantizer = VectorQuantizer(32, 3, 0.25)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        latent = self.layer(batch["x"]).T.reshape(1, 1, 2, 2, 2).expand(1, 3, 2, 2, 2)
        return self.quantizer(latent + 3 + rank())[1], {}


def main(out: Path, kind: str) -> None:
    """Train as the rank that RANK names, and save its parameters.

    Args:
        out: receives `rank0.pt` or `rank1.pt`, and the stage's checkpoints.
        kind: "clock" or "codes".
    """
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    stage = Clocked() if kind == "clock" else Coded()
    budget = Budget(10**6, minutes=0.02) if kind == "clock" else Budget(230)
    train(stage, out, budget, seed=0, device=torch.device("cpu"), half=False)
    torch.save(dict(stage.named_parameters()), out / f"rank{rank()}.pt")
    dist.barrier()
