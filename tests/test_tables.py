"""The benchmark's tables say what the rows say."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pandas as pd

from benchmarks.scales import COLUMNS as SCALES
from benchmarks.tables import (
    SHOWN,
    added,
    matrix,
    overview,
    papers_tasks,
    plot,
    scales_of_others,
    sharp,
    summary,
    tumour,
    wins,
)
from modfill.modalities import MODALITIES

TUMOUR = ("psnr_tumour", "psnr_tumour_matched")


def rows(levels: dict[str, float]) -> pd.DataFrame:
    """All 28 tasks of two cases; a figure is the method's level plus 1 for each source, in the second case 0.5 more."""
    table = []
    for method, level in levels.items():
        for case_id, more in (("a", 0.0), ("b", 0.5)):
            for count in (1, 2, 3):
                for sources in combinations(MODALITIES, count):
                    for target in set(MODALITIES) - set(sources):
                        own = {"method": method, "case_id": case_id, "sources": "+".join(sources), "target": target}
                        table.append(own | dict.fromkeys((*SHOWN, *TUMOUR, "sharpness"), level + count + more))
    return pd.DataFrame(table)


def test_means_wins_and_matrix() -> None:
    frame = rows({"copy": 19.0, "modfill": 20.0})
    frame.loc[(frame.method == "copy") & (frame.case_id == "a") & (frame.sources == "t2w"), "psnr"] = 30.0
    assert "| modfill | 3→1 | 23.250 ± 0.354 |" in overview(frame)
    assert "| copy | 53 | 56 | 56 | 56 | 56 | 56 |" in wins(frame)
    assert "| T1 |  | 21.25 / 21.25 | 21.25 / 21.25 | 21.25 / 21.25 |" in matrix(frame)
    assert summary(frame).count("| modfill | t1n+t2w | t1c (T1ce) |") == 1


def test_the_autoencoder_s_reconstruction_is_the_diagonal() -> None:
    own = pd.DataFrame({"case_id": ["a", "b"], "modality": "t1n", "psnr": [33.0, 35.0], "psnr_matched": [34.0, 35.5]})
    assert "| T1 | 34.00 / 34.75 | 21.25 / 21.25 | 21.25 / 21.25 |" in summary(rows({"modfill": 20.0}), own)


def test_rivals_alone_have_no_wins(tmp_path: Path) -> None:
    frame = rows({"copy": 19.0})
    assert wins(frame) == "" and matrix(frame) == "" and "modfill" not in summary(frame)
    plot(frame, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5_000


def test_what_a_source_more_brings_and_what_lies_in_the_tumour() -> None:
    frame = rows({"copy": 19.0, "modfill": 20.0})
    assert "| FLAIR | 21.25 | 21.25 | 22.25 | 23.25 | hurts in 0 of 9 steps | +1.00 |" in added(frame)
    better = (frame.method == "modfill") & (frame.sources == "t1n") & (frame.target == "t2f")
    frame.loc[better, "psnr_matched"] = 30.0
    assert "| FLAIR | 24.17 | 30.00 | 22.25 | 23.25 | hurts in 2 of 9 steps | -7.75 |" in added(frame)
    assert added(rows({"copy": 19.0})) == ""
    frame["psnr_tumour"], frame["psnr_tumour_matched"] = 10.0, 12.0
    frame.loc[frame.case_id == "b", "psnr_tumour"] = float("nan")
    frame.loc[(frame.method == "copy") & (frame.sources == "t2w"), "psnr_tumour"] = 8.0
    assert "| copy | 10.00 / 12.00 | 8.00 / 12.00 | 10.00 / 12.00 |" in tumour(frame)
    assert tumour(frame.assign(psnr_tumour=float("nan"))) == ""


def test_how_sharp_the_images_of_a_target_are() -> None:
    frame = rows({"copy": 0.0, "modfill": 0.0})
    frame["sharpness"] = (frame.method == "modfill") * 0.5 + (frame.target == "t1c") * 0.25
    assert "| copy | 0.00 | 0.25 | 0.00 | 0.00 |" in sharp(frame)
    assert "| modfill | 0.50 | 0.75 | 0.50 | 0.50 |" in sharp(frame)


def test_the_paper_s_tasks_stand_beside_its_figures() -> None:
    table = papers_tasks(rows({"modfill": 20.0}))
    assert "| modfill | 21.25 / 21.25 / 21.250 | 21.25 / 21.25 / 21.250 |" in table and "25.818" in table


def test_scales_of_others_stand_beside_what_they_publish() -> None:
    frame = rows({"copy": 19.0, "modfill": 20.0})
    assert scales_of_others(frame) == ""  # an older version's rows
    for place, name in enumerate(SCALES):
        frame[name] = frame.sources.str.count(r"\+") + place / 10
    frame["psnr_brain"] = frame["ssim_brain"] = 1.0
    frame.loc[(frame.method == "modfill") & (frame.target == "t1c"), "psnr_wfm"] = 6.2
    table = scales_of_others(frame)
    assert "| modfill | T1ce | 23.25 | 1.00 | 1.000 | 2.00 | 2.10 | 6.20 | 2.300 | 2.400 |" in table
    assert "| modfill | all | 23.25 | 1.00 | 1.000 | 2.00 | 2.10 | 3.20 | 2.300 | 2.400 |" in table
    assert "29.35-29.74 | 29.35-29.74 |  |" in table and "| 26.8 | 0.94 |" in table
    assert table in summary(frame)


def test_tables_of_tasks_with_three_sources_only(tmp_path: Path) -> None:
    frame = rows({"copy": 19.0, "modfill": 20.0})
    frame = frame[frame.sources.str.count(r"\+") == 2]
    text = summary(frame)
    assert "| modfill | 3→1 | 23.250 ± 0.354 |" in text and "| in the tumour | 3 to FLAIR | 3 to T1ce | all 4 |" in text
    assert "1→1" not in text and "all 28" not in text and "nan" not in text
    plot(frame, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5_000
