"""Where outputs lie in each naming, and that each naming is read back as what it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from modfill.cases.filenames import split_name
from modfill.cases.files import CaseFiles, Cohort
from modfill.cases.marks import sidecar_path
from modfill.errors import ModfillError
from modfill.modalities import BRATS, MODALITIES
from modfill.outputs.naming import NAMINGS, OutputFolder, output_folder, uncertainty_path

OUT = Path("out")
EXPECTED = {
    "brats2023": ("p_1/p_1-t1n", "p_1/p_1-t1c", "p_1/p_1-t2w", "p_1/p_1-t2f"),
    "brats2021": ("p_1/p_1_t1", "p_1/p_1_t1ce", "p_1/p_1_t2", "p_1/p_1_flair"),
    "nnunet": ("imagesTs/p_1_0000", "imagesTs/p_1_0001", "imagesTs/p_1_0002", "imagesTs/p_1_0003"),
    "bids": tuple(
        f"sub-p1/anat/sub-p1_{rest}"
        for rest in ("desc-modfill_T1w", "ce-gadolinium_desc-modfill_T1w", "desc-modfill_T2w", "desc-modfill_FLAIR")
    ),
}


def cohort(layout: str, *ids: str, names: tuple[str, ...] = (), channels: tuple[str, ...] = ()) -> Cohort:
    cases = [CaseFiles(case_id, dict(zip(MODALITIES, map(Path, names), strict=False))) for case_id in ids]
    return Cohort(layout, cases, {}, channels)


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming(naming: str) -> None:
    out = OutputFolder(OUT, naming)
    paths = [out.place("p_1", modality).image for modality in MODALITIES]
    assert [path.as_posix() for path in paths] == [f"out/{stem}.nii.gz" for stem in EXPECTED[naming]]
    everything = {f(path) for path in paths for f in (lambda p: p, sidecar_path, uncertainty_path)}
    assert len(everything) == 12  # nothing shares a place


def test_a_plain_folder_is_named_as_ever() -> None:
    assert OutputFolder(OUT).place("p1", "t1c").image == Path("out/p1/p1-t1c.nii.gz")
    assert uncertainty_path(Path("out/p1/p1-t1c.nii.gz")) == Path("out/p1/p1-t1c-uncertainty.nii.gz")


def test_maps_are_no_images_of_the_case() -> None:
    bids = uncertainty_path(OutputFolder(OUT, "bids").image("sub-1", "t1c"))
    assert bids.name == "sub-1_ce-gadolinium_desc-modfillUncertainty_T1w.nii.gz"
    assert uncertainty_path(OutputFolder(OUT, "nnunet").image("p", "t1c")).parent == OUT / "imagesTs" / "uncertainty"
    for naming in ("brats2023", "brats2021"):
        assert split_name(uncertainty_path(OutputFolder(OUT, naming).image("p", "t1c")).name, BRATS) is None


@pytest.mark.parametrize("case_id", ["sub-01", "sub-01_ses-b", "BraTS-GLI-00001-000", "UPENN_11", "sub-a_b"])
def test_bids_names_are_valid(case_id: str) -> None:
    valid = (
        r"out/(sub-[A-Za-z0-9]+)/((ses-[A-Za-z0-9]+)/)?anat/\1(_\3)?(_ce-gadolinium)?(_desc-modfill)?_(T1w|T2w|FLAIR)"
    )
    for modality in MODALITIES:
        for acquired in (True, False):
            path = OutputFolder(OUT, "bids").image(case_id, modality, acquired)
            assert re.fullmatch(valid + r"\.nii\.gz", path.as_posix())


def test_auto_is_like_the_input() -> None:
    names_2021 = ("a_t1.nii.gz", "a_t1ce.nii.gz", "a_t2.nii", "a_flair.nii.gz")
    for found, naming in (
        (cohort("folders", "a", names=names_2021), "brats2021"),
        (cohort("folders", "a", names=("a-t1n.nii.gz", "a-t1c.nii.gz")), "brats2023"),
        (cohort("folders", "a", names=("a_t1.nii.gz", "a-t1c.nii.gz")), "brats2023"),
        (cohort("nnunet", "a"), "nnunet"),
        (cohort("decathlon", "a"), "nnunet"),
        (cohort("bids", "sub-a"), "bids"),
        (cohort("table", "a"), "brats2023"),
    ):
        assert output_folder(OUT, "auto", found).naming == naming
        assert output_folder(OUT, "brats2021", found).naming == "brats2021"


def test_nnunet_keeps_the_order_of_the_channels_and_adds_what_they_lack() -> None:
    out = output_folder(OUT, "nnunet", cohort("nnunet", "a", channels=("t2f", "t1c")))
    assert out.channels == ("t2f", "t1c", "t1n", "t2w")
    assert out.image("a", "t2f") == OUT / "imagesTs" / "a_0000.nii.gz"


@pytest.mark.parametrize(("ids", "got"), [(("a_1", "a1"), "got sub-a1 as for a_1"), (("__",), "got sub-;")])
def test_bids_names_must_not_meet(ids: tuple[str, ...], got: str) -> None:
    with pytest.raises(ModfillError, match=f"case {ids[-1]}: .*{got}"):
        output_folder(OUT, "bids", cohort("folders", *ids))
    output_folder(OUT, "brats2023", cohort("folders", *ids))
