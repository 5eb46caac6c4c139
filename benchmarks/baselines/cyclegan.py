"""CycleGAN (Zhu et al. 2017) on axial slices, and inflated to 3D: unpaired, with a cycle back to the source."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from benchmarks.baselines.pair import Form, PairStage
from benchmarks.baselines.parts import ImagePool, PatchGAN, ResNetGenerator, frozen, initialise, lsgan
from modfill.training.data import TrainingCase

CYCLE, IDENTITY = 10.0, 5.0
POOL = 50


class CycleGAN2D(PairStage):
    """Two generators, there and back, and a discriminator of each modality. No loss compares with the target itself."""

    name = "cyclegan2d"
    FULL = Form(64, 9, (240, 240, 1), 1, 100_000)
    SMALL = Form(8, 4, (96, 96, 1), 1, 2_000)
    paired = False
    players = (("to_target", "to_source"), ("judge_target", "judge_source"))
    kept = ("to_target",)

    def __init__(self, form: Form, pair: tuple[int, int], cases: list[TrainingCase], held_out: list[TrainingCase]):
        super().__init__(form, pair, cases, held_out)
        self.to_target, self.to_source = (ResNetGenerator(self.dimensions, form.width, form.blocks) for _ in range(2))
        self.judge_target, self.judge_source = (PatchGAN(self.dimensions, 1, form.width) for _ in range(2))
        initialise(self)
        shape = (1, *form.window[: self.dimensions])
        self.pool_target, self.pool_source = (ImagePool(POOL, shape) for _ in range(2))

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this turn's player, a scalar, and its parts for the curves."""
        return (self._generators, self._discriminators)[self.turn](batch["source"], batch["target"])

    def _generators(self, source: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with frozen(self.judge_target, self.judge_source):
            like_target, like_source = self.to_target(source), self.to_source(target)
            fooled = lsgan(self.judge_target(like_target), 1) + lsgan(self.judge_source(like_source), 1)
        cycle = l1(self.to_source(like_target), source) + l1(self.to_target(like_source), target)
        identity = l1(self.to_target(target), target) + l1(self.to_source(source), source)
        self.synthetic = like_target.detach(), like_source.detach()
        parts = {"adversarial": fooled, "cycle": cycle, "identity": identity}
        return fooled + CYCLE * cycle + IDENTITY * identity, parts

    def _discriminators(self, source: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        like_target, like_source = self.synthetic
        loss = 0.5 * (
            lsgan(self.judge_target(target), 1) + lsgan(self.judge_target(self.pool_target(like_target)), 0)
            + lsgan(self.judge_source(source), 1) + lsgan(self.judge_source(self.pool_source(like_source)), 0)
        )  # fmt: skip
        return loss, {"discriminators": loss}

    def translate(self, source: Tensor) -> Tensor:
        """As in `PairStage`."""
        return self.to_target(source)


class CycleGAN3D(CycleGAN2D):
    """The same on crops of volumes."""

    name = "cyclegan3d"
    FULL = Form(64, 9, (96, 96, 96), 1, 20_000)
    SMALL = Form(8, 3, (32, 32, 32), 1, 500)  # the first and last kernels, of 7x7x7, take most of a step on a CPU


def l1(synthetic: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error."""
    return (synthetic.float() - wanted).abs().mean()
