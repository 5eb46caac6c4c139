"""Fitting the translator's linear shortcut: ridge regression over the voxels of the latent bank."""

from __future__ import annotations

import numpy as np
import torch

from modfill.model.shortcut import LatentShortcut
from modfill.training.latents import Draw, LatentBank

RIDGE = 1e-4  # of the mean square of a latent


def fit_shortcut(shortcut: LatentShortcut, bank: LatentBank) -> None:
    """Fill `shortcut` from every training case, plain and re-contrasted."""
    modalities, channels = len(bank.cases[0].volumes), shortcut.channels
    size = modalities * channels + 1
    gram, cross, voxels = np.zeros((size, size)), np.zeros((size, size - 1)), 0
    for index in range(len(bank.cases)):
        for changed in (False, True):
            every = tuple(range(modalities))
            example = Draw(index, False, every, (changed,) * modalities, every)
            pair = bank.sources(example), bank.clean(example, every)
            x, y = (latents.cpu().double().numpy().reshape(size - 1, -1) for latents in pair)
            x = np.concatenate([x, np.ones((1, x.shape[1]))])
            gram, cross, voxels = gram + x @ x.T, cross + x @ y.T, voxels + x.shape[1]
    for sources in shortcut.sets:
        rows = [m * channels + c for m in sources for c in range(channels)] + [size - 1]
        some = gram[np.ix_(rows, rows)] + RIDGE * voxels * np.eye(len(rows))
        maps = np.linalg.solve(some, cross[rows]).T.reshape(modalities, channels, len(rows))
        shortcut.of(sources).copy_(torch.from_numpy(maps))
