"""Before the translator, where `--lesions` asks for it: the segmentation network whose features enter its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from modfill.metrics import dice
from modfill.model.config import Preset
from modfill.training.augmentation import other_scanner, random_box, random_flips
from modfill.training.data import TrainingCase
from modfill.training.lesions import CLASSES, LesionNetwork
from modfill.training.loop import Stage

SHARE = 0.1  # of the translator's steps or minutes
RATE = 1e-3  # learning rate
VALIDATED = 4  # cases
TRIES = 20  # boxes drawn for one with a lesion


class LesionStage(Stage):
    """Trains on cross-entropy and soft Dice, on crops of which every second one has a lesion in it.

    Args:
        network: learns.
        preset: gives the crops; they are the translator's.
        cases: training cases with labels.
        labels: (X, Y, Z) on the grid of each case, by case id.
    """

    name = "lesions"
    measure = ("Dice", "")

    def __init__(
        self, network: LesionNetwork, preset: Preset, cases: Sequence[TrainingCase], labels: Mapping[str, np.ndarray]
    ):
        super().__init__()
        self.network, self.labels = network, labels
        self.cases = [case for case in cases if case.case_id in labels]
        self.config = replace(preset.training["translator"], learning_rate=RATE)

    def batch(self, rng: np.random.Generator) -> Mapping[str, Tensor]:
        """Draw `volumes` (B, M, X, Y, Z), `brain` (B, X, Y, Z) and `labels`, likewise."""
        drawn = [self._crop(rng, lesion=index % 2 == 0) for index in range(self.config.crops)]
        return {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}

    def _crop(self, rng: np.random.Generator, lesion: bool) -> dict[str, Tensor]:
        case = self.cases[int(rng.integers(len(self.cases)))]
        labels, edge = self.labels[case.case_id], self.config.crop or max(case.brain.shape)
        for _ in range(TRIES):
            box = random_box(rng, case, (edge,) * 3)
            if not lesion or labels[box].any():
                break
        brain = torch.from_numpy(np.array(case.brain[box]))
        volumes = other_scanner(rng, torch.from_numpy(case.volumes[(slice(None), *box)].astype(np.float32)), brain)
        parts = {"volumes": volumes, "brain": brain, "labels": torch.from_numpy(labels[box].astype(np.int64))}
        flips = random_flips(rng, (-3,))
        missing = [n for size in reversed(brain.shape) for n in (0, edge - size)]  # a volume smaller than the crop
        return {name: nn.functional.pad(part.flip(flips), missing) for name, part in parts.items()}

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar, and its parts for the curves."""
        device = next(self.network.parameters()).device
        labels, brain = batch["labels"].to(device), batch["brain"].to(device)
        logits = self.network(batch["volumes"].to(device)).float()
        entropy = nn.functional.cross_entropy(logits, labels, reduction="none")[brain].mean()
        found = logits.softmax(1)[:, 1:] * brain[:, None]
        wanted = nn.functional.one_hot(labels, CLASSES).movedim(-1, 1)[:, 1:]
        overlap, sizes = (found * wanted).sum((0, 2, 3, 4)), (found + wanted).sum((0, 2, 3, 4))
        dice = ((2 * overlap + 1) / (sizes + 1)).mean()
        return entropy - dice, {"entropy": entropy, "dice": dice}

    def validate(self) -> float:
        """Mean Dice of all lesion labels together over some training cases: the features need not generalise."""
        values = []
        device = next(self.network.parameters()).device
        for case in self.cases[:VALIDATED]:
            volumes = torch.from_numpy(case.volumes.astype(np.float32))[None].to(device)
            values.append(dice(self.network(volumes)[0].argmax(0).cpu().numpy() > 0, self.labels[case.case_id] > 0))
        return float(np.mean(values))
