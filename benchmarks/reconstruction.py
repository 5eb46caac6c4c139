"""The ceiling of everything that passes through latents: the autoencoder's own reconstruction, the paper's diagonal.

    python -m benchmarks.reconstruction --cases DIR [--weights FILE]

Prints PSNR (dB, unit range, over the paper's 192x192x144 voxels) per case and modality, and the means.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from modfill.case import find_cases, read_case
from modfill.checkpoint import SHIPPED, load
from modfill.metrics import psnr
from modfill.model.aldm import ALDM
from modfill.precision import fast_precision
from modfill.preprocess import prepare


@torch.inference_mode()
def reconstruct(model: ALDM, cohort: Path) -> pd.DataFrame:
    """PSNR of each modality (columns) of each case (rows)."""
    rows = {}
    for files in find_cases(cohort):
        case = read_case(files)
        prepared = prepare(case, model.preset.multiple, model.preset.normalisation)
        row = {}
        for modality, volume in prepared.volumes.items():
            with fast_precision(torch.device("cpu")):
                out = model.decode(model.encode(torch.from_numpy(volume)[None, None]))[0, 0].float().numpy()
            scale, kind = prepared.scales[modality], model.preset.normalisation
            row[modality] = psnr(*(scale.to_unit(v, kind) * prepared.brain for v in (volume, out)))
        rows[case.case_id] = row
        print(case.case_id, {m: round(v, 2) for m, v in row.items()}, flush=True)
    return pd.DataFrame.from_dict(rows, orient="index")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    options = parser.parse_args()
    table = reconstruct(load(options.weights)[0], options.cases)
    print(table.describe().loc[["mean", "std"]].round(2).to_string())
    print(f"mean over all {np.mean(table.to_numpy()):.2f} dB")


if __name__ == "__main__":
    main()
