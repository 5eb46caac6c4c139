"""The part of a trained rival that completes cases, in half precision, with the facts of its training."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from benchmarks.baselines.network import NetworkStage
from benchmarks.baselines.pair import PairStage
from modfill.atomic import replacing, writable
from modfill.errors import ModfillError
from modfill.modalities import MODALITIES


@dataclass(frozen=True)
class Facts:
    """The facts in a trained rival's file.

    Attributes:
        rival: its name.
        form: of its networks, "full" or "small".
        source, target: the modalities of a rival for one pair; empty for one that takes any.
        steps, minutes: of training, without validation.
        clock: of the minutes: "processor", of the training process over all its threads, or "wall".
        validation_psnr: in dB, at the end of it.
        modalities: names, in the order of the networks' channels.
    """

    rival: str
    form: str
    source: str
    target: str
    steps: int
    minutes: float
    validation_psnr: float
    clock: str = "wall"  # of files that name none
    modalities: tuple[str, ...] = MODALITIES  # likewise

    @property
    def label(self) -> str:
        """Its name in tables."""
        return f"{self.rival}-small" if self.form == "small" else self.rival


def exported(run: Path, name: str) -> Path:
    """The path of the export of a run."""
    return run / f"{name}.safetensors"


def export(
    stage: NetworkStage | PairStage,
    run: Path,
    *,
    form: str,
    clock: str,
    modalities: tuple[str, ...],
    source: str = "",
    target: str = "",
) -> Facts:
    """Write the averaged weights that completing needs, from the checkpoint of a run."""
    state = torch.load(run / f"{stage.name}.ckpt", map_location="cpu", weights_only=True)
    tensors = {name: value.half() for name, value in state["ema"].items()} | state["buffers"]
    with (run / f"{stage.name}.csv").open(newline="") as file:
        psnr = [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "validation_psnr"][-1]
    facts = Facts(stage.name, form, source, target, state["step"], state["seconds"] / 60, psnr, clock, modalities)
    path = exported(run, stage.name)
    content = save(kept(stage, tensors), {"facts": json.dumps(asdict(facts))})
    with writable(path), replacing(path) as temporary:
        temporary.write_bytes(content)
    return facts


def facts_of(path: Path) -> Facts:
    """The facts of an export. Raises ModfillError if there is none."""
    if not path.exists():
        raise ModfillError(f"{path} must be a trained {path.stem}, got no file; train it with "
                           f"python -m benchmarks.baselines.trained {path.stem}")  # fmt: skip
    with safe_open(path, "pt") as file:
        facts = Facts(**json.loads(file.metadata()["facts"]))
    return replace(facts, modalities=tuple(facts.modalities))


def load(stage: NetworkStage | PairStage, path: Path) -> None:
    """Fill a stage with an export."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file, not a dictionary)
    stage.load_state_dict({**stage.state_dict(), **tensors})
    stage.eval()


def kept(stage: NetworkStage | PairStage, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that the stage needs after training."""
    return {
        name: value.contiguous()
        for name, value in tensors.items()
        if any(name == part or name.startswith(f"{part}.") for part in stage.kept)
    }
