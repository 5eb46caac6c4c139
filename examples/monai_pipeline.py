"""A MONAI network that needs four channels, on cases that lack some: python examples/monai_pipeline.py CASES

The network here is untrained: put your own in its place.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from modfill.integrations.monai_transform import CompleteModalitiesd
from monai.data import CacheDataset, DataLoader
from monai.inferers import sliding_window_inference
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    ConcatItemsd,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
)

from modfill.cases.finding import find_cases
from modfill.modalities import MODALITIES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, help="default: the weights that modfill ships")
    parser.add_argument("--cache", type=Path, default=Path("completed"))
    options = parser.parse_args()

    steps = [
        LoadImaged(MODALITIES, allow_missing_keys=True),
        EnsureChannelFirstd(MODALITIES, allow_missing_keys=True),
        Orientationd(MODALITIES, "RAS", labels=None, allow_missing_keys=True),
        CompleteModalitiesd(MODALITIES, weights=options.weights, cache=options.cache),
        NormalizeIntensityd(MODALITIES, nonzero=True),
        ConcatItemsd(MODALITIES, "image"),
    ]
    cases = [{**files.paths, "subject_id": files.case_id} for files in find_cases(options.folder)]
    network = UNet(3, in_channels=4, out_channels=4, channels=(8, 16, 32), strides=(2, 2)).eval()
    for batch in DataLoader(CacheDataset(cases, Compose(steps), progress=False)):
        with torch.inference_mode():
            labels = sliding_window_inference(batch["image"], (64, 64, 64), 1, network).argmax(1)
        acquired = [m for m, there in zip(MODALITIES, batch["acquired_modalities"][0], strict=True) if there]
        print(f"{batch['subject_id'][0]}: acquired {', '.join(acquired)}; segmentation {tuple(labels.shape[1:])}")


if __name__ == "__main__":
    main()
