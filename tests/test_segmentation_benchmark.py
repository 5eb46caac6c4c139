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

from benchmarks import nnunet, segmentation


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
    ratios = segmentation.recovery(segmentation.by_set(given))
    assert math.isclose(ratios.loc["t1c", "modfill"], 0.25) and math.isclose(ratios.loc["t1c", "dropout"], 0.5)
    text = segmentation.summary(given)
    assert "Nothing missing: mean Dice 0.800 (dropout network 0.700)." in text
    assert "| missing | dropout | zeros | modfill | best | ahead of the next by |" in text
    assert "| t1c | 0.600 | 0.400 | 0.500 | dropout | 0.100 |" in text


def test_there_are_14_missing_sets() -> None:
    assert len(set(segmentation.missing_sets())) == 14


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
    monkeypatch.setattr(segmentation, "missing_sets", lambda: [("t1c",), ("t1n", "t1c", "t2w")])
    words = ["--train", tmp_path / "train", "--cases", tmp_path / "test", "--run", tmp_path / "run", "--iterations", 2,
             "--methods", "copy", "modfill", "--weights", tiny_weights, "--out", tmp_path / "out"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["segmentation", *map(str, words)])
    segmentation.main()
    table = pd.read_csv(tmp_path / "out" / "segmentation.csv")
    assert len(table) == (2 + 2 * 4) * len(segmentation.REGIONS) and table.dice.between(0, 1).all()
    assert set(table.strategy) == {"complete", "dropout", "zeros", "copy", "modfill"}
    assert (tmp_path / "out" / "segmentation.png").stat().st_size > 10_000
    before = (tmp_path / "out" / "segmentation.csv").read_bytes()
    segmentation.main()  # everything is there: nothing is trained, segmented or appended
    assert (tmp_path / "out" / "segmentation.csv").read_bytes() == before and epochs(tmp_path / "run") == [1, 1]
    weights = finished(tmp_path / "run", "network_weights")
    monkeypatch.setattr(sys, "argv", ["4" if word == "2" else word for word in sys.argv])
    monkeypatch.setattr(nnunet.SmallTrainer, "train_step", lambda self, batch: {"loss": np.zeros(())})
    segmentation.main()
    assert epochs(tmp_path / "run") == [2, 2]
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


def write_segmented(folder: Path) -> Path:
    """One complete case with a segmentation, and one without."""
    case, labels = write_case(folder, "p1"), np.zeros((24, 28, 20), np.uint8)
    labels[10:14, 10:14, 10:13] = 3
    save(case / "p1-seg.nii.gz", labels)
    write_case(folder, "p2", seed=2)
    return folder
