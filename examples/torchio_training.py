"""Train on subjects of which some lack a modality: python examples/torchio_training.py CASES --cache completed/

Each case needs its segmentation, `<case>-seg.nii.gz`, beside its images. The first epoch synthesises what is missing,
the next ones read it from the cache. For a network that has seen many kinds of synthetic images, put
`RandomModalityDropout(p=0.3)` before `CompleteModalities`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torchio as tio
from modfill.integrations.torchio_transform import CompleteModalities

from modfill.cases.finding import find_cases
from modfill.modalities import MODALITIES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, help="default: the weights that modfill ships")
    parser.add_argument("--cache", type=Path, default=Path("completed"))
    options = parser.parse_args()

    subjects = []
    for files in find_cases(options.folder):
        images = {modality: tio.ScalarImage(path) for modality, path in files.paths.items()}
        label = tio.LabelMap(next(iter(files.paths.values())).with_name(f"{files.case_id}-seg.nii.gz"))
        subjects.append(tio.Subject(**images, seg=label, subject_id=files.case_id))
    complete = CompleteModalities(options.weights, cache=options.cache)
    transform = tio.Compose([complete, tio.ToCanonical(), tio.ZNormalization(), tio.CropOrPad(64), tio.RandomFlip()])
    loader = tio.SubjectsLoader(tio.SubjectsDataset(subjects, transform), batch_size=2, shuffle=True, num_workers=2)

    network = torch.nn.Sequential(torch.nn.Conv3d(4, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(16, 1, 1))
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    for epoch in range(1, 4):
        began, losses = time.monotonic(), []
        for batch in loader:
            images = torch.cat([batch[modality][tio.DATA] for modality in MODALITIES], dim=1)
            tumour = (batch["seg"][tio.DATA] > 0).float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(network(images), tumour)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: loss {sum(losses) / len(losses):.3f}, {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
