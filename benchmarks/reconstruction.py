"""The autoencoder's own reconstruction, the paper's diagonal: an upper bound for what is decoded from latents alone.

    python -m benchmarks.reconstruction --cases DIR --out DIR [--weights FILE]

Writes `reconstruction.csv`, all figures of the protocol for every modality of every complete case, mapped with the
modality's own scale; `benchmarks.translation` with the same `--out` takes its table's diagonal from there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

from benchmarks.cases import figures, in_unit_range
from modfill.cases.finding import find_cases
from modfill.cases.reading import Case, read_case
from modfill.model.device import fast_precision
from modfill.model.synthesiser import Synthesiser
from modfill.preprocessing.prepare import prepare
from modfill.weights.checkpoint import load
from modfill.weights.file import SHIPPED


@torch.inference_mode()
def reconstruct(model: Synthesiser, case: Case) -> Iterator[dict]:
    """A row for each modality of a complete case."""
    prepared = prepare(case, model.preset.multiple)
    for modality, volume in prepared.volumes.items():
        with fast_precision(torch.device("cpu")):
            latents = model.encode_latents(torch.from_numpy(volume)[None, None])
            out = model.autoencoder.decode(latents)[0, 0].float().numpy()
        scale = prepared.scales[modality]
        given = in_unit_range(prepared, out, (scale.unit_mean, scale.unit_std))
        yield {"case_id": case.case_id, "modality": modality, **figures(case, modality, given)}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--weights", type=Path, default=SHIPPED, metavar="FILE")
    options = parser.parse_args()
    model, _ = load(options.weights)
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    for files in find_cases(options.cases, modality_set=model.preset.modality_set):
        rows += reconstruct(model, read_case(files))
        print(rows[-1]["case_id"], flush=True)
    frame = pd.DataFrame(rows)
    frame.to_csv(options.out / "reconstruction.csv", index=False)
    print(frame.groupby("modality", sort=False)[["psnr", "psnr_matched", "ssim"]].mean().round(3).to_string())
    print(f"mean {frame.psnr.mean():.2f} dB, {frame.psnr_matched.mean():.2f} matched")


if __name__ == "__main__":
    main()
