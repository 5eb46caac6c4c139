"""The tiny preset cut down to a few steps, for tests, and a training run that kills itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from modfill.model.config import PRESETS, Preset
from modfill.training import loop, run

STEPS = 4


def shortened(steps: int = STEPS, preset: Preset = PRESETS["tiny"], crop: int = 16) -> dict[str, Preset]:
    """A table of presets whose "tiny" takes this many steps a stage, on small crops."""
    training = {
        stage: replace(config, steps=steps, crop=min(config.crop, crop), variants=min(config.variants, 3), warmup=2)
        for stage, config in preset.training.items()
    }
    return {"tiny": replace(preset, training=training)}


def saving_often(after_save: Callable[[Path], None], save_every: float = 0.0) -> dict[str, Callable]:
    """Replacements for `loop._save` and `run.train`: a checkpoint after every step, and a hook after each."""
    save, train = loop._save, loop.train

    def save_and_tell(path: Path, *rest) -> None:
        save(path, *rest)
        after_save(path)

    def train_saving(*arguments, **options) -> None:
        train(*arguments, **options, save_every=save_every)

    return {"save": save_and_tell, "train": train_saving}


def train_and_die(data: Path, out: Path, name: str, threads: int) -> None:
    """Train, and send this process SIGKILL in the middle of stage `name`.

    Args:
        data, out: as for `train_preset`.
        name: of the stage.
        threads: of torch; in float32 the last bit depends on them.
    """
    torch.set_num_threads(threads)
    saves: list[str] = []

    def die(path: Path) -> None:
        saves.append(path.stem)
        if saves.count(name) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    often = saving_often(die)
    loop._save, run.train = often["save"], often["train"]
    run.PRESETS.update(shortened())
    run.train_preset("tiny", data=data, out=out)
