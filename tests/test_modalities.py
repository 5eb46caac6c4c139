"""Names of files: every BraTS year, common synonyms, and what is no modality."""

from __future__ import annotations

import pytest

from modfill.cases.filenames import SEGMENTATION_WORDS, is_segmentation, split_name
from modfill.modalities import BRATS, BUILT_IN, MODALITIES, ModalitySet

NAMED = [
    ("Brats17_2013_2_1_t1.nii.gz", "Brats17_2013_2_1", "t1n"),
    ("Brats17_CBICA_AAB_1_t1ce.nii.gz", "Brats17_CBICA_AAB_1", "t1c"),
    ("Brats18_2013_2_1_flair.nii.gz", "Brats18_2013_2_1", "t2f"),
    ("BraTS19_TCIA10_408_1_t2.nii", "BraTS19_TCIA10_408_1", "t2w"),
    ("BraTS20_Training_001_flair.nii", "BraTS20_Training_001", "t2f"),
    ("BraTS2021_00000_t1ce.nii.gz", "BraTS2021_00000", "t1c"),
    ("BraTS-GLI-00001-000-t1c.nii.gz", "BraTS-GLI-00001-000", "t1c"),
    ("BraTS-PED-00002-000-t1n.nii.gz", "BraTS-PED-00002-000", "t1n"),
    ("BraTS-SSA-00002-000-t2w.nii.gz", "BraTS-SSA-00002-000", "t2w"),
    ("BraTS-MET-00086-000-t2f.nii.gz", "BraTS-MET-00086-000", "t2f"),
    ("BraTS-MEN-RT-0000-1_t1c.nii.gz", "BraTS-MEN-RT-0000-1", "t1c"),
    ("BraTS-GLI-02062-100-t1c.nii.gz", "BraTS-GLI-02062-100", "t1c"),
    ("UPENN-GBM-00001_11_T1GD.nii.gz", "UPENN-GBM-00001_11", "t1c"),
    ("UCSF-PDGM-0004_FLAIR.nii.gz", "UCSF-PDGM-0004", "t2f"),
    ("sub-01_T1w.nii.gz", "sub-01", "t1n"),
    ("sub-01_ce-gadolinium_T1w.nii.gz", "sub-01", "t1c"),
    ("sub-01_FLAIR.NII.GZ", "sub-01", "t2f"),
    ("p1_t1-gd.nii.gz", "p1", "t1c"),
    ("p1_t1_gd.nii.gz", "p1", "t1c"),
    ("p1-T1_post.nii.gz", "p1", "t1c"),
    ("p1_t1ce_w.nii.gz", "p1", "t1c"),
    ("p1_t1_pre.nii.gz", "p1", "t1n"),
    ("p1_t2_flair.nii.gz", "p1", "t2f"),
    ("p1-t2-FLAIR.nii.gz", "p1", "t2f"),
    ("p1_fla.nii.gz", "p1", "t2f"),
    ("t1c.nii.gz", "", "t1c"),
    ("T1.nii", "", "t1n"),
]


@pytest.mark.parametrize(("filename", "case_id", "modality"), NAMED)
def test_split_name(filename: str, case_id: str, modality: str) -> None:
    assert split_name(filename, BRATS) == (case_id, modality)


@pytest.mark.parametrize(
    "filename",
    ["p1_t1.mha", "p1_t1", "p1t1.nii.gz", "p1_seg.nii.gz", "p1_0000.nii.gz", "BraTS-GLI-00000-000-t1n-voided.nii.gz"]
    + ["p1_t1_bias.nii.gz", "p1_swi.nii.gz", ".nii.gz", "", "patient1.nii.gz", "p1_t1.json"],
)
def test_no_modality(filename: str) -> None:
    assert split_name(filename, BRATS) is None


def test_each_alias_gives_its_modality_with_either_separator_and_letter_case() -> None:
    for modality, aliases in BRATS.aliases.items():
        for alias in aliases:
            for name in (alias, alias.upper(), alias.replace("_", "-")):
                assert split_name(f"Case_1-{name}.nii.gz", BRATS) == ("Case_1", modality)
                assert split_name(f"{name}.nii", BRATS) == ("", modality)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_set_is_what_its_table_says(name: str) -> None:
    built_in = ModalitySet.of(name)
    assert built_in.name == name and ModalitySet.from_table(built_in.table) == built_in
    assert not {alias for names in built_in.aliases.values() for alias in names} & set(SEGMENTATION_WORDS)
    assert all(modality.nearest in built_in.names for modality in built_in.modalities)
    assert BRATS.names == MODALITIES == ("t1n", "t1c", "t2w", "t2f")


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("BraTS2021_00000_seg.nii.gz", True),
        ("BraTS-GLI-00001-000-seg.nii.gz", True),
        ("W39_1998.09.19_Segm.nii", True),
        ("BraTS-MEN-RT-0000-1_gtv.nii.gz", True),
        ("BraTS-GLI-00000-000-mask-healthy.nii.gz", True),
        ("p1_t1_mask.nii.gz", True),
        ("labels.nii.gz", True),
        ("p1_t1.nii.gz", False),
        ("p1_seg.json", False),
        ("mask_t1.nii.gz", False),
    ],
)
def test_is_segmentation(filename: str, expected: bool) -> None:
    assert is_segmentation(filename) is expected
