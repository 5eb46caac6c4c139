"""The paper's Tables 2 and D: PSNR, NMSE and SSIM from each single source to each target, ± over the cases."""

from __future__ import annotations

import pandas as pd

__all__ = ["papers_matrix"]

FIGURES = {"psnr": "PSNR", "nmse": "NMSE", "ssim": "SSIM"}


def papers_matrix(frame: pd.DataFrame, method: str, reconstruction: pd.DataFrame | None = None) -> str:
    """The table as Markdown: a row for each source, three columns for each target.

    Args:
        frame: rows of `translation.csv`, of any set of modalities.
        method: the method whose rows count.
        reconstruction: rows of `reconstruction.csv`, for the diagonal: the autoencoder's reconstruction of a modality.

    Returns:
        Empty if the method has no row with a single source, or the rows have no NMSE.
    """
    own = frame[(frame.method == method) & ~frame.sources.str.contains("+", regex=False)]
    if own.empty or "nmse" not in own:
        return ""
    if reconstruction is not None and "nmse" in reconstruction:
        own = pd.concat([own, reconstruction.assign(sources=reconstruction.modality, target=reconstruction.modality)])
    found = own.groupby(["sources", "target"])[list(FIGURES)].agg(["mean", "std"])
    order = list(dict.fromkeys(frame.sources[~frame.sources.str.contains("+", regex=False)]))
    head = [f"to {target} {name}" for target in order for name in FIGURES.values()]
    lines = ["| " + " | ".join([f"{method}, from", *head]) + " |", "|---" * (len(head) + 1) + "|"]
    for source in order:
        cells = [source]
        for target in order:
            there = (source, target) in found.index
            row = found.loc[(source, target)] if there else None
            cells += ["" if row is None else f"{row[name, 'mean']:.3f} ± {row[name, 'std']:.3f}" for name in FIGURES]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
