"""One plain training loop for every stage: schedule, mixed precision, EMA, checkpoints, curves, exact resume.

Everything random in a step is drawn from generators seeded by (seed, stage, step, rank), so a run that was killed and
resumed from its last checkpoint goes on with the same numbers.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from modfill.atomic import replacing, writable
from modfill.errors import ModfillError
from modfill.model.config import StageConfig
from modfill.training.log import Budget, Curves, Progress

VALIDATION_SHARE = 0.05  # of the training time, at most, goes into validation


class Stage(nn.Module):
    """A module that the loop trains: parameters that require gradients, a batch to draw, and a loss.

    Frozen networks may be attributes too; only parameters with `requires_grad` are optimised and saved.

    Attributes:
        turns: losses of a step, minimised one after the other. The players of an adversarial network have a turn, and
            an optimiser, each; the optimisers of any other stage minimise one loss together.
        turn: whose loss `forward` gives, from 0; set by the loop.
        spent: the share of the budget that is spent, 0 to 1; set by the loop.
        origin: what the stage is trained from and a resumed run must repeat, by name.
        measure: what `validate` gives, and its unit as it is printed.
    """

    name: str
    config: StageConfig
    origin: Mapping[str, str] = MappingProxyType({})
    turns: int = 1
    turn: int = 0
    spent: float = 0.0
    measure: tuple[str, str] = ("PSNR", " dB")

    def batch(self, rng: np.random.Generator) -> Mapping[str, object]:
        """The inputs of one step."""
        raise TypeError(f"{type(self).__name__} must define batch()")

    def optimisers(self, parameters: Mapping[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
        """The optimisers of the parameters that are trained: AdamW for all, unless a stage says otherwise."""
        rate, decay = self.config.learning_rate, self.config.weight_decay
        return [torch.optim.AdamW(parameters.values(), lr=rate, betas=(0.9, 0.99), weight_decay=decay)]

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then half a cosine down to 1 % of the peak."""
        return learning_rate(self.config, step, self.spent)

    def validate(self) -> float:
        """The stage's validation: PSNR in dB, unless `measure` says otherwise."""
        raise TypeError(f"{type(self).__name__} must define validate()")


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


def train(
    stage: Stage,
    run: Path,
    budget: Budget,
    *,
    seed: int,
    device: torch.device,
    half: bool,
    save_every: float = 180.0,
) -> None:
    """Train `stage` until its budget is spent, resuming from `run` if it holds a checkpoint of the stage.

    Writes `<run>/<stage>.ckpt` (resumable) and appends to `<run>/<stage>.csv` and TensorBoard. At the end the stage's
    parameters are the averaged (EMA) ones. `half` trains in bfloat16 where float32 is not needed.

    Raises:
        ModfillError: the checkpoint in `run` is of another preset or origin.
    """
    stage.to(device)
    parameters = _trainable(stage)
    optimisers = stage.optimisers(parameters)
    ema, progress = EMA(parameters, stage.config.ema), Progress()
    checkpoint = run / f"{stage.name}.ckpt"
    if checkpoint.exists():
        _resume(checkpoint, stage, optimisers, ema, progress)
    model: Callable[..., Any] = (
        DistributedDataParallel(stage, find_unused_parameters=True) if dist.is_initialized() else stage
    )
    curves = Curves(run, stage.name, stage.measure) if rank() == 0 else None
    saved, validating = time.monotonic(), 0.0
    while (fraction := _spent(budget, progress, device)) < 1:
        began = budget.clock()
        stage.spent = fraction
        rate = stage.learning_rate(progress.step)
        torch.manual_seed(step := step_seed(seed, stage.name, progress.step))
        stage.train()
        batch = stage.batch(np.random.default_rng(step))
        half_precision = partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=half)
        losses = _take_turns(stage, model, batch, optimisers, rate=rate, precision=half_precision)
        progress.step += 1
        ema.update(parameters, progress.step)
        took = budget.clock() - began
        progress.seconds += took
        if curves:
            curves.add(progress, budget, rate, losses, took)
            if time.monotonic() - saved > save_every:
                if validating < VALIDATION_SHARE * progress.seconds:
                    began = time.monotonic()
                    ema.swap(parameters)
                    curves.validated(progress, validated(stage, device, half))
                    ema.swap(parameters)
                    validating += time.monotonic() - began
                _save(checkpoint, stage, optimisers, ema, progress)
                saved = time.monotonic()
    if curves:
        _save(checkpoint, stage, optimisers, ema, progress)
    ema.swap(parameters)
    if curves:
        curves.validated(progress, validated(stage, device, half))
        curves.close()


def _take_turns(
    stage: Stage,
    model: Callable[..., Any],
    batch: Mapping[str, Any],
    optimisers: Sequence[torch.optim.Optimizer],
    *,
    rate: float,
    precision: Callable[[], AbstractContextManager[Any]],
) -> dict[str, Tensor]:
    """One step of each player of a stage on the same batch, each with its own optimisers.

    `precision` is entered anew for each player: autocast keeps the weights that it has cast, and a step changes them.

    Returns:
        The parts of the losses by name, and their sum as `loss`.
    """
    losses: dict[str, Tensor] = {}
    for turn in range(stage.turns):
        stage.turn = turn
        with precision():
            loss, parts = model(batch)
        _descend(loss, optimisers[turn :: stage.turns], rate, stage.config.gradient_clip)
        losses = {**losses, **parts, "loss": losses.get("loss", 0) + loss.detach()}
    return losses


def _descend(loss: Tensor, optimisers: Sequence[torch.optim.Optimizer], rate: float, clip: float) -> None:
    """One clipped optimiser step; none where the gradient is not finite: one bad batch must not end a long run."""
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    for group in groups:
        group["lr"] = rate
    for optimiser in optimisers:
        optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if torch.isfinite(nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], clip)):
        for optimiser in optimisers:
            optimiser.step()


@torch.no_grad()
def validated(stage: Stage, device: torch.device, half: bool) -> float:
    """The stage's validation PSNR in evaluation mode under the training precision."""
    stage.eval()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
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


def _spent(budget: Budget, progress: Progress, device: torch.device) -> float:
    """The share of the budget that is spent, by rank 0's clock.

    Ranks with different learning rates would drift apart, and one that stopped alone would leave the others waiting.
    """
    spent = torch.tensor(budget.fraction(progress), dtype=torch.float64, device=device)
    if dist.is_initialized():
        dist.broadcast(spent, 0)
    return float(spent)


def _trainable(stage: Stage) -> dict[str, nn.Parameter]:
    return {name: p for name, p in stage.named_parameters() if p.requires_grad}


def _save(path: Path, stage: Stage, optimisers: Sequence[torch.optim.Optimizer], ema: EMA, progress: Progress) -> None:
    state = {
        "parameters": {name: p.detach() for name, p in _trainable(stage).items()},
        "buffers": {name: b for name, b in stage.named_buffers() if name in stage.state_dict()},
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        "ema": ema.shadow,
        "step": progress.step,
        "seconds": progress.seconds,
        "origin": dict(stage.origin),
    }
    content = BytesIO()  # torch.save hides a full disk behind a RuntimeError
    torch.save(state, content)
    with writable(path), replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def require_origin(path: Path, state: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """Raise ModfillError if a checkpoint was trained from something else; one of an older version does not say."""
    stored = state.get("origin", {})
    for name, value in origin.items():
        if stored.get(name, value) != value:
            raise ModfillError(
                f"{path}: {name} must be {value}, got {stored[name]} when the run began; "
                "give that again or choose another run folder"
            )


def _resume(
    path: Path, stage: Stage, optimisers: Sequence[torch.optim.Optimizer], ema: EMA, progress: Progress
) -> None:
    state = torch.load(path, map_location="cpu", weights_only=True)
    require_origin(path, state, stage.origin)
    try:
        result = stage.load_state_dict(state["parameters"] | state["buffers"], strict=False)
        foreign = bool(result.unexpected_keys) or any(name in result.missing_keys for name in ema.shadow)
    except RuntimeError:  # a parameter of another shape
        foreign = True
    if foreign:
        raise ModfillError(f"{path} must be of the preset in training, got another one's; choose another run folder")
    for optimiser, stored in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(stored)
    for name, value in state["ema"].items():
        ema.shadow[name].copy_(value)
    progress.step, progress.seconds = state["step"], state["seconds"]
