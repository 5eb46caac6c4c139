"""The tiny preset cut down to a few steps, for tests; as a program, a training run that kills itself.

`python -m tests.short_training DATA OUT NAME` trains and sends itself SIGKILL in the middle of stage NAME.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from modfill.model.config import PRESETS, Preset
from modfill.training import loop, run

STEPS = 4


def shortened(steps: int = STEPS, preset: Preset = PRESETS["tiny"], crop: int = 16) -> dict[str, Preset]:
    """A table of presets whose "tiny" takes this many steps a stage, on small crops."""
    training = {
        stage: replace(config, steps=steps, crop=min(config.crop, crop), warmup=2)
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


def _main(data: str, out: str, name: str) -> None:
    saves: list[str] = []

    def die(path: Path) -> None:
        saves.append(path.stem)
        if saves.count(name) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    often = saving_often(die)
    loop._save, run.train = often["save"], often["train"]
    run.PRESETS.update(shortened())
    run.train_preset("tiny", data=Path(data), out=Path(out))


if __name__ == "__main__":
    _main(*sys.argv[1:])
