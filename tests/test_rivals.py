"""The rivals for one pair: sizes as in their papers, players that learn in turns, and trainings that stop and go on."""

from __future__ import annotations

import sys
from itertools import permutations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import translation
from benchmarks.baselines import aldm, eagan, nicegan, reggan, resvit, trained
from benchmarks.baselines import all as every
from benchmarks.baselines.cyclegan import IDENTITY, CycleGAN2D
from benchmarks.baselines.export import Facts, facts_of
from benchmarks.baselines.pair import Form, PairStage
from benchmarks.baselines.parts import ImagePool, PatchGAN, ResNetGenerator, constant_then_linear
from benchmarks.baselines.pix2pix import Pix2Pix2D
from benchmarks.baselines.trained import PAIRS, Trained, TrainedPairs, training_case
from benchmarks.tables import read
from modfill.errors import ModfillError
from modfill.model.config import AutoencoderConfig
from modfill.training.data import TrainingCase
from modfill.training.log import Budget
from modfill.training.loop import train
from tests.test_baselines import learnable_case, without

pytestmark = pytest.mark.usefixtures("one_thread")

SLICE, CUBE = (32, 32, 1), (24, 24, 24)
TINY: dict[str, Form] = {
    "cyclegan2d": Form(2, 1, SLICE, 1, 4),
    "cyclegan3d": Form(2, 1, CUBE, 1, 4),
    "nicegan": Form(2, 1, (96, 96, 1), 1, 4),
    "reggan": reggan.RegForm(2, 1, SLICE, 1, 4, halvings=3),
    "resvit": resvit.ViTForm(2, 6, SLICE, 2, 4, token=4, layers=1, heads=2),
    "eagan": Form(2, 3, CUBE, 2, 4),
    "aldm": aldm.ALDMForm(
        8, 1, (32, 32, 32), 1, 4, AutoencoderConfig(1, (4, 4, 4), 1, 3, 16), (4, 8, 8, 8, 8, 8, 4), 2, 1e-3
    ),
}


def millions(module: nn.Module) -> float:
    """Parameters, in millions."""
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 2)


@pytest.fixture(scope="module")
def cases() -> list[TrainingCase]:
    """Two cases whose FLAIR is the negative of their T1."""
    return [training_case(learnable_case(seed)) for seed in (1, 2)]


def tiny(name: str, cases: list[TrainingCase]) -> PairStage:
    """A rival from T1 to FLAIR, with the same weights each time; validation is left out."""
    torch.manual_seed(0)
    stage = PAIRS[name](TINY[name], (0, 3), cases, [])
    stage.validate = lambda: 0.0  # type: ignore[method-assign]
    return stage


def test_the_full_forms_have_the_papers_numbers_of_parameters() -> None:
    with torch.device("meta"):
        assert millions(ResNetGenerator(2, 64, 9)) == 11.37
        assert millions(ResNetGenerator(3, 64, 9)) == 34.11
        assert millions(ResNetGenerator(3, 32, 6)) == 5.89
        assert millions(ResNetGenerator(3, 16, 6)) == 1.48
        assert millions(ResNetGenerator(2, 64, 9, batch_norm=True)) == 11.37
        assert millions(PatchGAN(2, 1, 64)) == 2.76
        assert millions(PatchGAN(3, 1, 64)) == 11.05
        assert millions(nicegan.Decoder(64, 6)) == 8.10
        assert millions(reggan.Registration(64, 7)) == 2.06
        vit = resvit.generator(resvit.ResViT.FULL)
        assert millions(vit) == 123.44 and millions(vit.blocks[0].encoder) == 85.06
        assert millions(eagan.UNet(64, 7)) == 167.27
        assert millions(eagan.UNet(64, 5)) == 66.60
        assert millions(eagan.UNet(16, 5)) == 4.17
        assert millions(PatchGAN(3, 3, 64, batch_norm=True, padding=2)) == 11.06
        assert millions(PatchGAN(3, 3, 16, batch_norm=True, padding=2)) == 0.70
    judge = nicegan.Discriminator(64)  # spectral normalisation needs real weights
    assert millions(judge) == 46.87
    assert round(sum(millions(part) for part in (judge.encoder, judge.attention, judge.mix)), 2) == 0.16


class Interrupted(Exception):
    """A training that is stopped."""


@pytest.mark.parametrize("name", PAIRS)
def test_all_players_learn_and_a_stopped_training_goes_on_to_the_same_bits(
    tmp_path: Path, cases: list[TrainingCase], name: str
) -> None:
    def run(folder: Path, steps: int, save_every: float = 0.0) -> PairStage:
        folder.mkdir(exist_ok=True)
        stage = tiny(name, cases)
        draw, drawn = stage.batch, iter(range(steps))

        def batch(rng: np.random.Generator) -> dict[str, Tensor]:
            if next(drawn, None) is None:
                raise Interrupted
            return draw(rng)

        stage.batch = batch  # type: ignore[method-assign]
        train(stage, folder, Budget(4), seed=0, device=torch.device("cpu"), half=False, save_every=save_every)
        return stage

    whole = run(tmp_path / "whole", 4, save_every=60)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", 1)
    parts = run(tmp_path / "parts", 3, save_every=60)
    for key, value in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[key], value), key
    start = dict(tiny(name, cases).named_parameters())
    for modules in whole.players:
        for module in modules:
            learned = getattr(whole, module).named_parameters(prefix=module)
            assert any(not torch.equal(start[key], value) for key, value in learned), module
    assert all(value.isfinite().all() for value in whole.state_dict().values())


@pytest.mark.parametrize("name", [name for name in PAIRS if not PAIRS[name].universal])
def test_each_turn_moves_its_own_player_alone(cases: list[TrainingCase], name: str) -> None:
    stage = tiny(name, cases)
    stage.spent = 0.9
    batch = stage.batch(np.random.default_rng(0))
    for turn, modules in enumerate(stage.players):
        stage.turn = turn
        stage.zero_grad()
        loss = stage(batch)[0]
        loss.backward()
        assert loss.isfinite()
        moved = {key.split(".")[0] for key, p in stage.named_parameters() if p.grad is not None and p.grad.any()}
        assert moved == set(modules)
        assert all(p.requires_grad for p in stage.parameters())


def test_crops_are_of_one_place_where_pairs_are_compared(cases: list[TrainingCase]) -> None:
    for name, together in (("reggan", True), ("resvit", True), ("cyclegan2d", False), ("nicegan", False)):
        stage = tiny(name, cases)
        source, target = stage._crops(np.random.default_rng(3))
        assert source.shape == target.shape == (1, *TINY[name].window[:2])
        assert float(source.min()) == float(target.min()) == -1 and max(source.max(), target.max()) <= 1
        inside = (source > -1) & (target > -1)
        inverse = np.corrcoef(source[inside], target[inside])[0, 1] < -0.9
        assert inverse == together


def test_a_cycle_of_inverse_translations_costs_nothing(cases: list[TrainingCase]) -> None:
    class Times(nn.Module):
        def __init__(self, factor: float):
            super().__init__()
            self.factor = factor

        def forward(self, x: Tensor) -> Tensor:
            return self.factor * x

    stage = CycleGAN2D(TINY["cyclegan2d"], (0, 3), cases, [])
    stage.to_target, stage.to_source = Times(-0.5), Times(-2)
    source, target = torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32)
    loss, parts = stage({"source": source, "target": target})
    assert parts["cycle"] == 0 and parts["identity"] == pytest.approx(float(1.5 * target.mean() + 3 * source.mean()))
    assert float(loss) == pytest.approx(float(parts["adversarial"] + IDENTITY * parts["identity"]))
    stage.to_source = Times(-4)
    cycle = stage({"source": source, "target": target})[1]["cycle"]
    assert float(cycle) == pytest.approx(float(source.mean() + target.mean()))


def test_the_pool_gives_old_images_back_half_of_the_time() -> None:
    torch.manual_seed(0)
    pool = ImagePool(4, (1, 1))
    numbers = torch.arange(204.0).view(-1, 1, 1)
    assert torch.equal(pool(numbers[:4]), numbers[:4]) and torch.equal(pool.images.float(), numbers[:4])
    given = [int(pool(number[None])) for number in numbers[4:]]
    old = [g for g, n in zip(given, range(4, 204), strict=True) if g != n]
    assert all(g <= n for g, n in zip(given, range(4, 204), strict=True))
    assert len(set(old)) == len(old) and 70 < len(old) < 130
    assert {*given, *pool.images.flatten().int().tolist()} == set(range(204))  # none is lost, none given twice


def test_decoders_alone_learn_by_the_encoders_of_nicegan(cases: list[TrainingCase]) -> None:
    stage = tiny("nicegan", cases)
    judges, decoders = stage.optimisers(dict(stage.named_parameters()))
    batch = stage.batch(np.random.default_rng(0))
    before = {key: p.clone() for key, p in stage.named_parameters()}
    stage.turn = 1
    stage(batch)[0].backward()
    judges.step(), decoders.step()
    changed = {key for key, p in stage.named_parameters() if not torch.equal(before[key], p)}
    assert changed and all(key.startswith("to_") for key in changed)


def test_registration_starts_at_no_displacement_and_warps_by_voxels() -> None:
    torch.manual_seed(0)
    registration = reggan.Registration(8, 3)
    registration.initialise()
    image, other = torch.rand(2, 1, 1, 32, 48)
    flow = registration(image, other)
    assert flow.shape == (1, 2, 32, 48) and 0 < flow.abs().max() < 1e-2
    assert torch.allclose(reggan.warp(image, flow), image, atol=1e-2)
    shift = torch.zeros(1, 2, 32, 48)
    shift[:, 0] = 1
    assert torch.allclose(reggan.warp(image, shift)[..., :-1], image[..., 1:], atol=1e-4)
    shift = shift.flip(1)
    assert torch.allclose(reggan.warp(image, shift)[:, :, :-1], image[:, :, 1:], atol=1e-4)
    assert reggan.roughness(shift) == 0
    assert reggan.roughness(shift * torch.arange(48.0)) == 0.5  # mean over both directions


def test_resvits_transformer_is_one_and_joins_late(cases: list[TrainingCase]) -> None:
    stage = tiny("resvit", cases)
    first, sixth = (stage.generator.blocks[n] for n in (0, 5))
    assert first.encoder is sixth.encoder and first.embed is not sixth.embed
    kinds = [isinstance(block, resvit.TransformerBlock) for block in stage.generator.blocks]
    assert kinds == [True, False, False, False, False, True]
    called = []
    first.encoder.register_forward_hook(lambda *_: called.append(stage.spent))
    batch = stage.batch(np.random.default_rng(0))
    rates = []
    for stage.spent in (0.0, 0.6, 0.7, 0.99):
        stage(batch)
        rates.append(stage.learning_rate(0))
    assert called == [0.7, 0.7, 0.99, 0.99]
    assert rates[0] == rates[2] == stage.rate and max(rates[1], rates[3]) < 0.3 * stage.rate


def test_edges_are_at_the_lowest_value_where_a_volume_is_flat_and_alike_along_all_axes() -> None:
    edges = eagan.Edges()
    assert torch.allclose(edges(torch.full((1, 1, 6, 6, 6), -1.0)), torch.tensor(-1.0), atol=1e-5)
    step = torch.full((1, 1, 8, 8, 8), -1.0)
    step[:, :, 4:] = -0.9
    along = [edges(step.transpose(2, axis)).transpose(2, axis) for axis in (2, 3, 4)]
    assert along[0][0, 0, 3, 4, 4] == pytest.approx(2 * np.tanh(0.1 * 16 / 4) - 1, abs=1e-4)
    assert all(torch.allclose(one, along[0], atol=1e-5) for one in along)
    assert (eagan.real_label(0), eagan.real_label(1), eagan.fake_label(1)) == pytest.approx((0.7, 1.2, 0.3))


def test_aldms_networks_learn_one_after_the_other_and_its_translator_switches(cases: list[TrainingCase]) -> None:
    stage = tiny("aldm", cases)
    batch = stage.batch(np.random.default_rng(0))
    learning = {0.0: {"autoencoder"}, 0.3: {"autoencoder", "discriminator"}, 0.5: {"translator"}, 0.9: {"denoiser"}}
    for stage.spent, networks in learning.items():
        stage.zero_grad()
        stage.train()
        codes = stage.autoencoder.regulariser.unused_for.clone()
        stage(batch)[0].backward()
        moved = {key.split(".")[0] for key, p in stage.named_parameters() if p.grad is not None and p.grad.any()}
        assert moved == networks
        assert torch.equal(codes, stage.autoencoder.regulariser.unused_for) == ("autoencoder" not in networks)
    latent = torch.randn(1, 3, 4, 4, 4)
    first, second = stage.translator(latent, 0), stage.translator(latent, 1)
    assert not torch.allclose(first, second)
    stage.zero_grad()
    first.sum().backward()
    switched = {int(key.split("modulations.")[1][0]) for key, p in stage.named_parameters()
                if "modulations" in key and p.grad is not None}  # fmt: skip
    assert switched == {0}


def test_aldm_starts_all_windows_from_the_same_noise(cases: list[TrainingCase]) -> None:
    stage = tiny("aldm", cases).eval()
    window = stage.batch(np.random.default_rng(0))["source"]
    with torch.inference_mode():
        first, second = stage.translate(torch.cat([window, window]))
    assert torch.allclose(first, second, atol=1e-4)


def test_aldm_has_the_papers_widths() -> None:
    with torch.device("meta"):
        translator = aldm.Translator(3, aldm.ALDM.FULL.translator, 4)
    widths = [block.convolutions[1].out_channels for block in translator.blocks]
    assert widths == [256, 256, 256, 256, 256, 128]
    spades = [isinstance(block.norms[0], aldm.MSSpade) for block in translator.blocks]
    assert spades == [False, False, True, True, True, True]
    assert translator.stem[0].kernel_size == translator.head.kernel_size == (7, 7, 7)


def test_rates_stay_and_then_fall_to_nothing() -> None:
    assert [constant_then_linear(spent, 0.5) for spent in (0, 0.5, 0.75, 1)] == [1, 1, 0.5, 0]
    assert constant_then_linear(1, 1) == 1


def test_any_set_of_modalities_trains_and_is_scored_by_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        head = np.zeros((40, 44, 36))
        head[4:-4, 4:-4, 4:-4] = 100 + 20 * rng.random((32, 36, 28))
        (folder := tmp_path / split / f"IXI-{split}").mkdir(parents=True)
        for modality, voxels in {"t1": head, "t2": 300 - head, "pd": 2 * head}.items():
            image = nib.Nifti1Image((voxels * (head > 0)).astype(np.int16), np.eye(4))
            nib.save(image, folder / f"IXI-{split}-{modality}.nii.gz")
    for name in ("reggan", "aldm"):
        monkeypatch.setattr(PAIRS[name], "SMALL", TINY[name])
    monkeypatch.setattr(Pix2Pix2D, "window", (32, 32, 1))
    monkeypatch.setattr(trained, "DEVICE", torch.device("cpu"))
    out = tmp_path / "rivals"
    monkeypatch.setattr(sys, "argv", [
        "all", "--modalities", "ixi", "--minutes-each", "1e-4", "--small", "--names", "reggan", "aldm", "pix2pix2d",
        "--train", f"{tmp_path}/train", "--validate", f"{tmp_path}/test", "--cases", f"{tmp_path}/test",
        "--out", str(out),
    ])  # fmt: skip
    every.main()
    frame = read(out / "translation.csv")
    assert set(zip(frame.method, frame.sources, frame.target, strict=True)) == {
        (name, "t1", "pd") for name in ("reggan-small", "aldm-small", "pix2pix2d")
    }
    assert frame.psnr.between(0, 100).all() and "25.85 / .898" in (out / "rivals.md").read_text()
    aldm_small = TrainedPairs("aldm", out / "aldm")
    assert set(aldm_small.facts) == set(permutations(("t1", "t2", "pd"), 2))
    with pytest.raises(ModfillError, match=r"trained for t1, t2, pd, got a case of t1n, t1c, t2w, t2f"):
        Trained("pix2pix2d", out / "pix2pix2d").complete(without(learnable_case(1), "t2f"), ["t2f"])


def test_minutes_of_a_training_are_those_of_the_budgets_clock(tmp_path: Path, cases: list[TrainingCase]) -> None:
    ticks = iter(range(100))
    budget = Budget(1, minutes=3 / 60, clock=lambda: next(ticks))  # a second passes between two readings
    train(tiny("reggan", cases), tmp_path, budget, seed=0, device=torch.device("cpu"), half=False)
    state = torch.load(tmp_path / "reggan.ckpt", weights_only=True)
    assert (state["step"], state["seconds"]) == (3, 3)


def test_each_rival_trains_as_long_for_a_pair_and_one_for_all_pairs_for_their_sum(tmp_path: Path) -> None:
    pairs = [("t1n", "t2w"), ("t2w", "t2f")]
    planned = every.trainings(["unet", "reggan", "aldm"], pairs, tmp_path, 2)
    assert {t.run.relative_to(tmp_path).as_posix(): t.minutes for t in planned} == {
        "unet": 4, "aldm": 4, "reggan/t1n-t2w": 2, "reggan/t2w-t2f": 2,
    }  # fmt: skip


def test_one_command_trains_completes_and_leaves_finished_runs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reggan.RegGAN, "SMALL", TINY["reggan"])
    monkeypatch.setattr(trained, "DEVICE", torch.device("cpu"))
    folders = {Path("train"): 1, Path("validate"): 3}
    monkeypatch.setattr(
        every, "training_cases", lambda folder, modality_set: [training_case(learnable_case(folders[folder]))]
    )

    def fit(minutes: float) -> Facts:
        planned = every.trainings(["reggan"], [("t1n", "t2f")], tmp_path, minutes)
        every.train_all([t for t in planned if not t.done], small=True, train=Path("train"), validate=Path("validate"))
        return facts_of(tmp_path / "reggan" / "t1n-t2f" / "reggan.safetensors")

    first = fit(1e-4)
    assert fit(1e-4) == first
    further = fit(first.minutes + 1e-4)
    assert further.steps > first.steps and further.minutes > first.minutes
    method, case = TrainedPairs("reggan", tmp_path / "reggan"), learnable_case(4)
    [facts] = method.facts.values()
    assert method.name == "reggan-small" and facts == further
    assert list(translation.tasks(method)) == [(("t1n",), ["t2f"])]
    given = method.complete(without(without(without(case, "t1c"), "t2w"), "t2f"), ["t2f"])["t2f"]
    brain = case.volume("t1n") > 0
    assert given.shape == brain.shape and not given[~brain].any() and given[brain].std() > 0
    assert given.min() >= 0 and given.max() <= 1
    with pytest.raises(ModfillError, match=r"translates t1n to t2f, got t1n\+t1c to t2f"):
        method.complete(without(without(case, "t2w"), "t2f"), ["t2f"])
    with pytest.raises(ModfillError, match=r"must be a trained resvit, got no file"):
        TrainedPairs("resvit", tmp_path / "resvit")
