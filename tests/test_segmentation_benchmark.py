"""The Dice benchmark on tiny cases: the real nnU-Net, every missing set, tables that say what was measured."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.case_files import MODALITIES, brain_volumes, save, write_case
from tests.nnunet_data import stay_in_this_process

pytest.importorskip("nnunetv2")

from modfill.integrations.torchio_transform import CompleteModalities

from benchmarks import filling, nnunet, nnunet_completions, segmentation
from benchmarks import segmentation_tables as tables
from benchmarks.baselines.contrast import Careful, Completions, blended
from benchmarks.baselines.ours import Modfill
from benchmarks.cases import reduced


def frame(dice: dict[tuple[str, str], float]) -> pd.DataFrame:
    """Results as in the CSV, the same for all regions and two cases but for 0.1."""
    return pd.DataFrame(
        [
            {
                "strategy": strategy,
                "case_id": case_id,
                "missing": missing,
                "region": region,
                "dice": value + d,
                "hd95": 1.0,
            }
            for (strategy, missing), value in dice.items()
            for case_id, d in (("a", -0.05), ("b", 0.05))
            for region in segmentation.REGIONS
        ]
    )


def test_recovery_and_choice() -> None:
    given = frame({("complete", "complete"): 0.8, ("dropout", "complete"): 0.7, ("zeros", "t1c"): 0.4,
                   ("dropout", "t1c"): 0.6, ("modfill", "t1c"): 0.5})  # fmt: skip
    ratios = tables.recovery(tables.by_set(given))
    assert math.isclose(ratios.loc["t1c", "modfill"], 0.25) and math.isclose(ratios.loc["t1c", "dropout"], 0.5)
    text = tables.summary(given)
    assert "Nothing missing: mean Dice 0.800 (dropout network 0.700)." in text
    assert "| missing | dropout | zeros | modfill | best | ahead of the next by |" in text
    assert "| t1c | 0.600 | 0.400 | 0.500 | dropout | 0.100 |" in text


def test_there_are_14_missing_sets() -> None:
    assert len(set(filling.missing_sets())) == 14


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks and patches for volumes of 24 voxels; three levels are the fewest for which nnU-Net's loss is finite."""
    stay_in_this_process(monkeypatch)
    monkeypatch.setattr(nnunet, "EPOCH", 2)
    monkeypatch.setattr(nnunet, "FEATURES", [4, 8, 8])
    monkeypatch.setattr(nnunet, "PATCH", [16, 16, 16])


def test_from_training_cases_to_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_weights: Path) -> None:
    for folder, seeds in (("train", (1, 2)), ("test", (3,))):
        for seed in seeds:
            case = write_case(
                tmp_path / folder, f"p{seed}", shape=(24, 28, 20), affine=np.diag((-1.0, -1.0, 1.0, 1.0)), seed=seed
            )
            tumour = (brain_volumes((24, 28, 20), seed)["t1c"] > 600).astype(np.uint8)
            save(case / f"p{seed}-seg.nii.gz", tumour * 3, np.diag((-1.0, -1.0, 1.0, 1.0)))
    make_small(monkeypatch)
    few = [("t1c",), ("t1n", "t1c", "t2w")]
    for module in (segmentation, nnunet_completions):
        monkeypatch.setattr(module, "missing_sets", lambda: few)
    for module in (nnunet, nnunet_completions):
        monkeypatch.setattr(module, "drawn_missing", lambda: few[np.random.randint(len(few))])
    words = ["--train", tmp_path / "train", "--cases", tmp_path / "test", "--run", tmp_path / "run",
             "--iterations", 2, "--methods", "copy", "modfill", "t1ce-blend", "--weights", tiny_weights,
             "--out", tmp_path / "out"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["segmentation", *map(str, words)])
    segmentation.main()
    table = pd.read_csv(tmp_path / "out" / "segmentation.csv")
    assert len(table) == (3 + 2 * 7) * len(segmentation.REGIONS) and table.dice.between(0, 1).all()
    assert set(table.strategy) == {"complete", "dropout", "zeros", "copy", "modfill", "t1ce-blend", "dropout+modfill",
                                   "completed"}  # fmt: skip
    assert set(table[table.strategy == "t1ce-blend"].missing) == {"t1c", "t1n+t1c+t2w"}
    for name in ("segmentation.png", "segmentation-patients.png"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000
    found = pd.read_csv(tmp_path / "out" / "choices.csv")
    assert len(found) == 3 * 2 and (found.gain - (found.filled - found["empty"])).abs().max() < 2e-4
    before = (tmp_path / "out" / "segmentation.csv").read_bytes()
    segmentation.main()  # everything is there: nothing is trained, segmented or appended
    assert (tmp_path / "out" / "segmentation.csv").read_bytes() == before and epochs(tmp_path / "run") == [1, 1, 1]
    weights = finished(tmp_path / "run", "network_weights")
    monkeypatch.setattr(sys, "argv", ["4" if word == "2" else word for word in sys.argv])
    monkeypatch.setattr(nnunet.SmallTrainer, "train_step", lambda self, batch: {"loss": np.zeros(())})
    segmentation.main()
    assert epochs(tmp_path / "run") == [2, 2, 2]
    for first, now in zip(weights, finished(tmp_path / "run", "network_weights"), strict=True):
        assert all(torch.equal(value, now[name]) for name, value in first.items()), "it must go on, not begin anew"


def epochs(run: Path) -> list[int]:
    """For how many epochs each finished segmenter was trained."""
    return finished(run, "current_epoch")


def finished(run: Path, key: str) -> list:
    """What the checkpoint of each finished segmenter says."""
    files = sorted(run.rglob("checkpoint_final.pth"))
    return [torch.load(path, map_location="cpu", weights_only=False)[key] for path in files]


def test_the_segmenter_sees_1_5_mm_and_no_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fillings are in unit range, acquired images are not: the network must not be able to tell."""
    make_small(monkeypatch)
    cases = segmentation.segmented(write_segmented(tmp_path / "train"))
    predictor = nnunet.trained("plain", *nnunet.preprocessed(cases, tmp_path / "run"), iterations=2)
    volumes = np.stack([cases[0].volume(m) for m in MODALITIES]).astype(np.float32)

    def seen(given: np.ndarray) -> np.ndarray:
        prepare = predictor.configuration_manager.preprocessor_class(verbose=False).run_case_npy
        manager = predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
        return np.asarray(prepare(given.transpose(0, 3, 2, 1), None, {"spacing": [1.0, 1.0, 1.0]}, *manager)[0])

    plain = seen(volumes)
    assert plain.shape[1:] == tuple(round(n / 1.5) for n in crop_shape(volumes)[::-1])
    np.testing.assert_allclose(seen((volumes - 50) / 1000 * (volumes > 0)), plain, atol=0.02)


def crop_shape(volumes: np.ndarray) -> list[int]:
    """Edges of the box around everything that is not 0."""
    return [int(np.ptp(np.flatnonzero((volumes != 0).any(tuple(a for a in range(4) if a != axis))))) + 1
            for axis in (1, 2, 3)]  # fmt: skip


def test_gaps_are_filled_or_zero(tmp_path: Path) -> None:
    [case] = segmentation.segmented(write_segmented(tmp_path))
    volumes = segmentation.filled(case, ("t1c",), None)
    assert not volumes[MODALITIES.index("t1c")].any()
    np.testing.assert_array_equal(volumes[0], case.volume("t1n"))


def write_segmented(folder: Path, affine: np.ndarray | None = None) -> Path:
    """One complete case with a segmentation, and one without."""
    case, labels = write_case(folder, "p1", affine=affine), np.zeros((24, 28, 20), np.uint8)
    labels[10:14, 10:14, 10:13] = 3
    save(case / "p1-seg.nii.gz", labels, affine)
    write_case(folder, "p2", seed=2)
    return folder


def test_what_is_dropped_follows_the_integrations_schedule() -> None:
    np.random.seed(0)
    counts = np.bincount([len(filling.drawn_missing()) for _ in range(3000)], minlength=4) / 3000
    np.testing.assert_allclose(counts, [1 / 2, 1 / 6, 1 / 6, 1 / 6], atol=0.04)


def test_cached_completions_are_those_of_the_integrations(tmp_path: Path, tiny_weights: Path) -> None:
    """`CompleteModalities` on the same case gives the same volumes but for a linear scale, which z-scores undo."""
    tio = pytest.importorskip("torchio")
    [case] = segmentation.segmented(write_segmented(tmp_path, affine=np.diag((-1.0, -1.0, 1.0, 1.0))))
    missing = ("t1c", "t2w")
    ours = filling.filled(case, missing, Modfill(tiny_weights))
    subject = tio.Subject(t1n=tio.ScalarImage(case.paths["t1n"]), t2f=tio.ScalarImage(case.paths["t2f"]))
    whole = CompleteModalities(tiny_weights)(subject)
    for modality in missing:
        volume, theirs = ours[MODALITIES.index(modality)], whole[modality].data[0].numpy()
        inside = (volume > 0) & (volume < 1)
        assert inside.sum() > 500 and np.corrcoef(volume[inside], theirs[inside])[0, 1] > 0.99999


def test_blending_keeps_what_is_certain_and_falls_back_to_t1() -> None:
    rng = np.random.default_rng(0)
    t1 = rng.uniform(0.2, 0.8, (8, 8, 8))
    synthetic = t1.copy()
    synthetic[:2, :2, :2] = 1.0
    np.testing.assert_allclose(blended(synthetic, t1, np.zeros_like(t1)), synthetic, atol=1e-6)
    unsure = blended(synthetic, t1, np.full_like(t1, 100.0))
    assert np.corrcoef(unsure.ravel(), t1.ravel())[0, 1] > 0.9999


def test_a_missing_t1ce_is_filled_by_its_rule_alone(tmp_path: Path, tiny_weights: Path) -> None:
    [case] = segmentation.segmented(write_segmented(tmp_path))
    completions, ours = Completions(tiny_weights), Modfill(tiny_weights)
    for sources in (("t1n", "t2w"), ("t2w",)):
        lacking = tuple(m for m in MODALITIES if m not in sources)
        plain = ours.complete(reduced(case, sources), lacking)
        empty = Careful("t1ce-empty", completions).complete(reduced(case, sources), lacking)
        assert not empty["t1c"].any()
        np.testing.assert_array_equal(empty["t2f"], plain["t2f"])
        [t1] = Careful("t1ce-t1", completions).complete(reduced(case, sources), ["t1c"]).values()
        if "t1n" in lacking:
            np.testing.assert_array_equal(t1, plain["t1n"])


def test_choices_are_paired_per_case() -> None:
    given = frame({("complete", "complete"): 0.8, ("zeros", "t1c"): 0.4, ("modfill", "t1c"): 0.5})
    given.loc[(given.strategy == "modfill") & (given.case_id == "a"), "dice"] += 0.02
    [row] = tables.choices(given, "abc").to_dict("records")
    assert (row["training"], row["missing"], row["cases"], row["weights"]) == ("complete cases", "t1c", 2, "abc")
    assert math.isclose(row["gain"], 0.11) and math.isclose(row["error"], 0.01, rel_tol=1e-6)


def test_folds_hold_each_case_out_once_and_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "preprocessed" / nnunet.DATASET).mkdir(parents=True)
    names = [f"p{n}" for n in range(7)]
    held_out = nnunet.split(names, 3, tmp_path)
    assert sorted(name for fold in held_out for name in fold) == names and nnunet.split(names, 3, tmp_path) == held_out
    with pytest.raises(ValueError, match="another division"):
        nnunet.split(names, 2, tmp_path)
