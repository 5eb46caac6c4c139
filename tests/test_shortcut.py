"""The translator's linear shortcut: a closed-form fit finds the map that made the data."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from modfill.model.config import PRESETS
from modfill.model.shortcut import LatentShortcut
from modfill.model.translator import Translator
from modfill.training.latents import Draw
from modfill.training.shortcuts import fit_shortcut

C, SHAPE = 2, (6, 5, 4)


class LinearBank:
    """Three modalities: the third's latent is an affine map of the other two's."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.cases = [SimpleNamespace(volumes=np.zeros((3, 1, 1, 1))) for _ in range(4)]
        self.first = torch.from_numpy(rng.standard_normal((4, 2, C, *SHAPE))).float()
        self.maps = torch.from_numpy(rng.standard_normal((C, 2 * C))).float()

    def sources(self, example: Draw) -> Tensor:
        two = self.first[example.case]
        third = torch.einsum("oc,cxyz->oxyz", self.maps, two.flatten(0, 1)) + 1.5
        return torch.cat([two, third[None]])

    clean = property(lambda self: lambda example, modalities: self.sources(example)[list(modalities)])


def test_a_linear_relation_is_found_and_the_translator_starts_from_it() -> None:
    bank, shortcut = LinearBank(), LatentShortcut(C, 3)
    fit_shortcut(shortcut, bank)  # type: ignore[arg-type]
    latents = bank.sources(Draw(2, False, (0, 1, 2), (False,) * 3, ()))
    torch.testing.assert_close(shortcut(latents[:2], (0, 1), 2)[0], latents[2], atol=0.02, rtol=0)
    torch.testing.assert_close(shortcut.of((0, 1))[2][:, :-1], bank.maps, atol=0.01, rtol=0)
    assert (shortcut(latents[:1], (0,), 2)[0] - latents[2]).std() > 0.1  # one source alone does not know it
    translator = Translator(PRESETS["tiny"].translator, C, 3)
    translator.shortcut = shortcut
    torch.nn.init.zeros_(translator.head.bias)
    even = torch.nn.functional.pad(latents, (0, 0, 0, 1))  # edges that can be folded
    fused, each = translator.fuse(even[:2], (0, 1), 2)
    torch.testing.assert_close(fused, shortcut(even[:2], (0, 1), 2))
    torch.testing.assert_close(each[1:], shortcut(even[1:2], (1,), 2))
