"""The MONAI bundle: its metadata pass MONAI's own check, and it gives the voxels of `complete`."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser, verify_metadata

from modfill import ModalityCompleter, ModfillError, find_cohort
from modfill.cli import main
from tests.case_files import write_case

# The keys that the MONAI Bundle Specification names mandatory. MONAI's own schema lies on a server, from which
# verify_metadata takes it unless the file is there.
TENSOR = ("type", "format", "modality", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data",
          "channel_def")  # fmt: skip
TENSORS = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "object", "required": list(TENSOR)}}
SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "required": ["version", "monai_version", "pytorch_version", "numpy_version", "optional_packages_version", "task",
                 "description", "authors", "copyright", "network_data_format"],
    "properties": {
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": TENSORS, "outputs": TENSORS},
        }
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "modfill"
    assert main(["export", "bundle", str(folder), "--weights", str(tiny_weights)]) == 0
    return folder


def test_metadata_are_verified(bundle: Path, tmp_path: Path) -> None:
    """By the specification's list of keys: without a network MONAI's schema cannot be fetched."""
    schema, metadata = tmp_path / "schema.json", bundle / "configs" / "metadata.json"
    schema.write_text(json.dumps(SCHEMA))
    verify_metadata(meta_file=str(metadata), filepath=str(schema))
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps({**json.loads(metadata.read_text()), "network_data_format": {"inputs": {}}}))
    with pytest.raises(ValueError, match="against schema"):
        verify_metadata(meta_file=str(broken), filepath=str(schema))


def test_the_bundle_gives_the_voxels_of_complete(bundle: Path, tiny_weights: Path, tmp_path: Path) -> None:
    case = write_case(tmp_path / "cohort", "p1", ("t1n", "t2f"))
    expected = ModalityCompleter(tiny_weights, device="cpu").complete(case).images
    config = ConfigParser()
    config.read_config(bundle / "configs" / "inference.json")
    changes = {"bundle_root": bundle, "dataset_dir": tmp_path / "cohort", "output_dir": tmp_path / "out"}
    config.update({name: str(path) for name, path in changes.items()} | {"device": "cpu"})
    config.get_parsed_content("run")
    files = find_cohort(tmp_path / "cohort").cases[0]
    transformed = config.get_parsed_content("preprocessing")({m: str(path) for m, path in files.paths.items()})
    assert set(expected) == {"t1c", "t2w"}
    for modality, image in expected.items():
        written = nib.load(tmp_path / "out" / "p1" / f"p1-{modality}.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(written.dataobj), np.asanyarray(image.dataobj))
        np.testing.assert_array_equal(transformed[modality][0].numpy(), np.asanyarray(image.dataobj))


def test_a_folder_with_files_is_left_alone(bundle: Path) -> None:
    from modfill.export.bundle import export_bundle

    before = sorted(bundle.rglob("*"))
    with pytest.raises(ModfillError, match="must be an empty folder or not there"):
        export_bundle(bundle)
    assert sorted(bundle.rglob("*")) == before
