"""From a raw nnU-Net dataset whose cases lack channels to segmentations: complete, plan, train, predict.

    export nnUNet_raw=... nnUNet_preprocessed=... nnUNet_results=...
    python examples/nnunet_end_to_end.py 501 502 segmentations --device cpu

Dataset 502 is written beside dataset 501; 501's test images, with their gaps, are then predicted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from modfill.integrations.nnunet import ModalityCompletionPredictor, prepare_dataset


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all steps; nnU-Net's own functions do what nnUNetv2_plan_and_preprocess and nnUNetv2_train do."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", type=int, help="number of the raw dataset with gaps")
    parser.add_argument("new_dataset", type=int, help="number of the completed dataset")
    parser.add_argument("out", type=Path, help="folder for the segmentations")
    parser.add_argument("--trainer", default="nnUNetTrainer")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--weights", type=Path, help="modfill's; default: the shipped ones")
    options = parser.parse_args(arguments)

    prepared = prepare_dataset(options.dataset, new_id=options.new_dataset, weights=options.weights)
    print(f"completed dataset: {prepared}")

    from nnunetv2.experiment_planning import plan_and_preprocess_api as nnunet
    from nnunetv2.run.run_training import run_training
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    nnunet.extract_fingerprints([options.new_dataset], num_processes=2, check_dataset_integrity=True)
    nnunet.plan_experiments([options.new_dataset])
    nnunet.preprocess([options.new_dataset], configurations=["3d_fullres"], num_processes=[2])
    device = torch.device(options.device)
    run_training(prepared.name, "3d_fullres", "all", options.trainer, device=device)

    predictor = ModalityCompletionPredictor(weights=options.weights, device=device)
    model = get_output_folder(prepared.name, options.trainer, "nnUNetPlans", "3d_fullres")
    predictor.initialize_from_trained_model_folder(model, ("all",))
    [source] = prepared.parent.glob(f"Dataset{options.dataset:03d}_*")
    predictor.predict_from_files(str(source / "imagesTs"), str(options.out), num_processes_preprocessing=1)
    for note in sorted(options.out.glob("*.nii.gz")):
        print(f"{note.name}: {note.name.removesuffix('.nii.gz')}.json says which channels were synthetic")


if __name__ == "__main__":
    main()
