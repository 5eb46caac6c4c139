"""Tumour regions of more patients than there are whole cases of: what lesions look like over many scanners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from modfill.errors import ModfillError

ZERO, UNIT = 80, 16  # the stored intensity of the brain's mean, and of a standard deviation above it
SPACING = (1.875, 1.875, 1.21)  # mm
EDGES = (64, 64, 48)  # voxels of 1 mm that a region is padded to
_KEYS = {"intensity", "valid_box", "val"}


class Regions:
    """Cubes around tumours.

    Args:
        file: an .npz with `intensity` (N, M, x, y, z) uint8, LPS: 80 + 16 times the z-score over the patient's brain,
            0 outside it; `valid_box` (N, 6), first and last + 1 voxel that is no padding; `val` (N,), True for those
            that are left out.
        modalities: M.

    Raises:
        ModfillError: the file is none.
    """

    def __init__(self, file: Path, modalities: int):
        try:
            with np.load(file) as stored:
                parts = {key: stored[key] for key in _KEYS}
        except (OSError, ValueError, KeyError) as error:
            raise ModfillError(f"{file} must be an .npz with {', '.join(sorted(_KEYS))}, got '{error}'") from error
        if parts["intensity"].ndim != 5 or parts["intensity"].shape[1] != modalities:
            raise ModfillError(f"{file}: intensity must be (N, {modalities}, x, y, z), "
                               f"got {parts['intensity'].shape}")  # fmt: skip
        kept = ~parts["val"].astype(bool)
        self.intensity, self.boxes = parts["intensity"][kept], parts["valid_box"][kept]

    def drawn(self, rng: np.random.Generator, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Random regions at 1 mm in RAS order: z-scored volumes (count, M, *EDGES) and the brain (count, *EDGES)."""
        rows = rng.integers(0, len(self.intensity), count)
        stored = torch.from_numpy(self.intensity[rows]).to(device)
        inside = torch.zeros_like(stored[:, 0], dtype=torch.bool)
        for mask, box in zip(inside, self.boxes[rows].astype(int), strict=True):
            mask[tuple(slice(first, last) for first, last in zip(box[:3], box[3:], strict=True))] = True
        brain = (stored > 0).all(1) & inside
        rim = nn.functional.max_pool3d((~brain)[:, None].float(), 3, 1, 1)  # its voxels are mixed with background
        size = [min(round(n * s), edge) for n, s, edge in zip(stored.shape[2:], SPACING, EDGES, strict=True)]
        z_scores = (stored.float() - ZERO) / UNIT
        volumes = nn.functional.interpolate(z_scores, size, mode="trilinear", align_corners=False)
        brain = nn.functional.interpolate(1 - rim, size, mode="nearest")[:, 0] > 0
        missing = [n for edge, now in zip(reversed(EDGES), reversed(size), strict=True) for n in (0, edge - now)]
        ras = (volumes * brain[:, None]).flip(2, 3), brain.flip(1, 2)
        return nn.functional.pad(ras[0], missing), nn.functional.pad(ras[1], missing)
