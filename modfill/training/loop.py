"""One plain training loop for every stage: schedule, mixed precision, EMA, checkpoints, curves, exact resume.

Everything random in a step is drawn from generators seeded by (seed, stage, step, rank), so a run that was killed and
resumed from its last checkpoint goes on with the same numbers.
"""

from __future__ import annotations

import csv
import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from modfill.config import StageConfig


VALIDATION_SHARE = 0.05  # of the training time, at most, goes into validation


class Stage(nn.Module):
    """What the loop trains: parameters that require gradients, a batch to draw, and a loss.

    Frozen networks may be attributes too; only parameters with `requires_grad` are optimised and saved.
    """

    name: str
    config: StageConfig

    def batch(self, rng: np.random.Generator) -> Mapping[str, object]:
        """The inputs of one step."""
        raise TypeError(f"{type(self).__name__} must define batch()")

    def validate(self) -> float:
        """The stage's validation PSNR in dB."""
        raise TypeError(f"{type(self).__name__} must define validate()")


@dataclass
class Progress:
    """Where a stage stands: steps done and seconds trained over all its runs."""

    step: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Budget:
    """When a stage ends: after `steps`, or after `minutes` if they are given."""

    steps: int
    minutes: float | None = None

    def fraction(self, progress: Progress) -> float:
        """How much of the budget is spent, 0 to 1. Under a time budget the learning rate follows the clock, so that the
        stage always ends annealed."""
        spent = progress.step / self.steps if self.minutes is None else progress.seconds / (60 * self.minutes)
        return min(spent, 1.0)


class EMA:
    """Exponential moving average of parameters, with a warm-up."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float):
        self.decay = decay
        self.shadow = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: dict[str, nn.Parameter], step: int) -> None:
        """Move the average towards the parameters."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, p in parameters.items():
            self.shadow[name].lerp_(p.detach(), 1 - decay)

    @torch.no_grad()
    def swap(self, parameters: dict[str, nn.Parameter]) -> None:
        """Exchange the average and the parameters; a second call undoes the first."""
        for name, p in parameters.items():
            kept = p.detach().clone()
            p.copy_(self.shadow[name])
            self.shadow[name].copy_(kept)


def train(stage: Stage, run: Path, budget: Budget, seed: int, device: torch.device, save_every: float = 180.0) -> None:
    """Train `stage` until its budget is spent, resuming from `run` if it holds a checkpoint of the stage.

    Writes `<run>/<stage>.ckpt` (resumable) and appends to `<run>/<stage>.csv` and TensorBoard. At the end the stage's
    parameters are the averaged (EMA) ones.
    """
    stage.to(device)
    parameters = {name: p for name, p in stage.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(parameters.values(), lr=stage.config.learning_rate, betas=(0.9, 0.99),
                                  weight_decay=stage.config.weight_decay)  # fmt: skip
    ema, progress = EMA(parameters, stage.config.ema), Progress()
    checkpoint = run / f"{stage.name}.ckpt"
    if checkpoint.exists():
        _resume(checkpoint, stage, optimiser, ema, progress)
    model: Callable = DistributedDataParallel(stage, find_unused_parameters=True) if dist.is_initialized() else stage
    curves = Curves(run, stage.name) if rank() == 0 else None
    saved, validating = time.monotonic(), 0.0
    while not _finished(budget, progress, device):
        began = time.monotonic()
        rate = learning_rate(stage.config, progress.step, budget.fraction(progress))
        parts = _step(model, stage, optimiser, parameters, rate, step_seed(seed, stage.name, progress.step), device)
        progress.step += 1
        ema.update(parameters, progress.step)
        progress.seconds += time.monotonic() - began
        if curves:
            curves.add(progress, budget, rate, parts, time.monotonic() - began)
            if time.monotonic() - saved > save_every:
                if validating < VALIDATION_SHARE * progress.seconds:
                    began = time.monotonic()
                    ema.swap(parameters)
                    curves.validated(progress, validated(stage, device))
                    ema.swap(parameters)
                    validating += time.monotonic() - began
                _save(checkpoint, parameters, stage, optimiser, ema, progress)
                saved = time.monotonic()
    if curves:
        _save(checkpoint, parameters, stage, optimiser, ema, progress)
    ema.swap(parameters)
    if curves:
        curves.validated(progress, validated(stage, device))
        curves.close()


def _step(model, stage, optimiser, parameters, rate, seed, device) -> dict[str, float]:
    for group in optimiser.param_groups:
        group["lr"] = rate
    torch.manual_seed(seed)
    stage.train()
    batch = stage.batch(np.random.default_rng(seed))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        loss, parts = model(batch)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters.values(), stage.config.gradient_clip)
    if torch.isfinite(norm):  # one bad batch must not end a long run
        optimiser.step()
    return {"loss": float(loss.detach()), **{name: float(value) for name, value in parts.items()}}


@torch.no_grad()
def validated(stage: Stage, device: torch.device) -> float:
    """The stage's validation PSNR in evaluation mode under the training precision."""
    stage.eval()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        return stage.validate()


def learning_rate(config: StageConfig, step: int, fraction: float) -> float:
    """Linear warm-up, then half a cosine down to 1 % of the peak."""
    warm = min(1.0, (step + 1) / config.warmup)
    return config.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fraction)))


def step_seed(seed: int, stage: str, step: int) -> int:
    """One 63-bit seed for everything random in a step of this rank."""
    digest = hashlib.sha256(f"{seed} {stage} {step} {rank()}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def rank() -> int:
    """This process's rank, 0 without torch.distributed."""
    return dist.get_rank() if dist.is_initialized() else 0


def _finished(budget: Budget, progress: Progress, device: torch.device) -> bool:
    """Rank 0's clock decides for all ranks: a rank that stopped alone would leave the others waiting."""
    done = torch.tensor(float(budget.fraction(progress) >= 1), device=device)
    if dist.is_initialized():
        dist.broadcast(done, 0)
    return bool(done)


def _save(
    path: Path, parameters: dict[str, nn.Parameter], stage: Stage, optimiser, ema: EMA, progress: Progress
) -> None:
    state = {
        "parameters": {name: p.detach() for name, p in parameters.items()},
        "buffers": {name: b for name, b in stage.named_buffers() if name in stage.state_dict()},
        "optimiser": optimiser.state_dict(),
        "ema": ema.shadow,
        "step": progress.step,
        "seconds": progress.seconds,
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def _resume(path: Path, stage: Stage, optimiser, ema: EMA, progress: Progress) -> None:
    state = torch.load(path, map_location="cpu", weights_only=True)
    result = stage.load_state_dict(state["parameters"] | state["buffers"], strict=False)
    missing = [name for name in ema.shadow if name in result.missing_keys]
    if missing or result.unexpected_keys:
        raise ValueError(f"{path} is of another preset: missing {missing}, unexpected {result.unexpected_keys}")
    optimiser.load_state_dict(state["optimiser"])
    for name, value in state["ema"].items():
        ema.shadow[name].copy_(value)
    progress.step, progress.seconds = state["step"], state["seconds"]


class Curves:
    """Losses to CSV and TensorBoard, and one progress line a minute on standard output."""

    def __init__(self, run: Path, stage: str):
        from torch.utils.tensorboard import SummaryWriter

        self.stage, self.board = stage, SummaryWriter(str(run / "tensorboard" / stage))
        self.file = (run / f"{stage}.csv").open("a", newline="")
        self.rows = csv.writer(self.file)
        if self.file.tell() == 0:
            self.rows.writerow(["step", "seconds", "name", "value"])
        self.recent: list[tuple[float, dict[str, float]]] = []
        self.printed = -math.inf

    def add(self, progress: Progress, budget: Budget, rate: float, parts: dict[str, float], seconds: float) -> None:
        """Collect one step; write the means and print a line when a minute has passed since the last."""
        self.recent.append((seconds, parts))
        if time.monotonic() - self.printed < 60:
            return
        means = {name: sum(p[name] for _, p in self.recent) / len(self.recent) for name in parts}
        per_step = sum(s for s, _ in self.recent) / len(self.recent)
        fraction = max(budget.fraction(progress), 1e-9)
        remaining = progress.seconds * (1 - fraction) / fraction
        for name, value in {**means, "learning_rate": rate}.items():
            self._write(progress, name, value)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        print(f"{self.stage} step {progress.step}  {shown}  {1 / per_step:.2f} steps/s  "
              f"{remaining / 60:.1f} min left", flush=True)  # fmt: skip
        self.printed, self.recent = time.monotonic(), []

    def validated(self, progress: Progress, value: float) -> None:
        """Record a validation PSNR."""
        self._write(progress, "validation_psnr", value)
        print(f"{self.stage} step {progress.step}  validation PSNR {value:.2f} dB", flush=True)

    def _write(self, progress: Progress, name: str, value: float) -> None:
        self.rows.writerow([progress.step, f"{progress.seconds:.1f}", name, f"{value:.6g}"])
        self.file.flush()
        self.board.add_scalar(f"{self.stage}/{name}", value, progress.step)

    def close(self) -> None:
        """Finish both files."""
        self.file.close()
        self.board.close()
