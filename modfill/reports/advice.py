"""Advice on each missing set: to fill the gaps or to leave the channels empty, from measured segmentations.

The table `choices.csv` lies beside the weights. `python -m benchmarks.segmentation` writes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from modfill import weights
from modfill.modalities import MODALITIES

__all__ = ["advice", "basis"]

_FOLDER = Path(weights.__file__).parent
CHOICES, HASH = _FOLDER / "choices.csv", _FOLDER / "small.safetensors.sha256"


def advice(missing_sets: Iterable[tuple[str, ...]]) -> pd.DataFrame:
    """A row per missing set of the BraTS modalities and way of training a segmenter; none for sets not measured.

    Returns:
        Columns `missing`, `segmenter trained on`, `advice`, and `Dice with modfill`: its difference from empty channels
        ± its standard error over patients. A difference within one standard error is none.
    """
    rows = []
    for missing in dict.fromkeys(missing_sets):
        for choice in _choices().get(frozenset(missing), []):
            rows.append({
                "missing": ", ".join(m for m in MODALITIES if m in missing),
                "segmenter trained on": choice["training"],
                "advice": _in_words(choice["gain"], choice["error"]),
                "Dice with modfill": f"{choice['gain']:+.2f} ± {choice['error']:.2f}",
            })  # fmt: skip
    return pd.DataFrame(rows)


def basis() -> str:
    """Name the patients and the segmenter of the measurement, for the headline of the advice."""
    first = next(choice for found in _choices().values() for choice in found)
    shipped = HASH.read_text(encoding="utf8")
    earlier = "" if shipped.startswith(first["weights"][:8]) else ", earlier weights of modfill"
    return f"{first['cases']} test patients, one small nnU-Net{earlier}: a hint, not a proof"


def _in_words(gain: float, error: float) -> str:
    if gain > error:
        return "fill with modfill"
    return "leave empty" if gain < -error else "no difference"


@lru_cache(maxsize=1)
def _choices() -> dict[frozenset[str], list[dict[str, Any]]]:
    """The rows of the table by missing set."""
    found: dict[frozenset[str], list[dict[str, Any]]] = {}
    for row in pd.read_csv(CHOICES, dtype={"weights": str}).to_dict("records"):
        found.setdefault(frozenset(row["missing"].split("+")), []).append(row)
    return found
