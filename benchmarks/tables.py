"""The rows of the benchmarks on disk, and the tables and the plot of the translation benchmark."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from modfill.modalities import MODALITIES, NAMES

SHOWN = ("psnr", "psnr_brain", "ssim", "psnr_matched", "ssim_matched")
OURS = "modfill"


def append(table: Path, columns: Sequence[str], rows: Iterable[dict]) -> None:
    """Add rows to a CSV file, with a header if it is new."""
    new = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if new:
            writer.writeheader()
        writer.writerows(rows)


def summary(frame: pd.DataFrame) -> str:
    """Markdown: every method by number of sources, modfill's wins, the paper's Table 2, and every task.

    Args:
        frame: the rows of `translation.csv`.
    """
    parts = [overview(frame), wins(frame), matrix(frame), every_task(frame)]
    return "\n".join(part for part in parts if part)


def overview(frame: pd.DataFrame) -> str:
    """The paper's Table 1: means over 1→1, 2→1, 3→1 and all 28 tasks, ± the standard deviation over the cases."""
    frame = frame.assign(count=frame.sources.str.count(r"\+") + 1)
    lines = [_row("method", "tasks", *SHOWN), _rule(2 + len(SHOWN))]
    for name, rows in frame.groupby("method", sort=False):
        for label, part in [(f"{n}→1", rows[rows["count"] == n]) for n in (1, 2, 3)] + [("all 28", rows)]:
            by_case = part.groupby("case_id")[list(SHOWN)].mean()
            lines.append(_row(name, label, *(f"{by_case[s].mean():.3f} ± {by_case[s].std():.3f}" for s in SHOWN)))
    return "\n".join(lines) + "\n"


def wins(frame: pd.DataFrame) -> str:
    """In how many (case, task) pairs modfill is ahead of each rival."""
    by_task = frame.pivot_table(index=["case_id", "sources", "target"], columns="method", values=list(SHOWN))
    rivals = [name for name in frame.method.unique() if not name.startswith(OURS)]
    if OURS not in set(frame.method) or not rivals:
        return ""
    lines = [_row("modfill is ahead of", *SHOWN, "of"), _rule(2 + len(SHOWN))]
    for rival in rivals:
        pairs = [by_task[shown][[OURS, rival]].dropna() for shown in SHOWN]
        lines.append(_row(rival, *(int((pair[OURS] > pair[rival]).sum()) for pair in pairs), len(pairs[0])))
    return "\n".join(lines) + "\n"


def matrix(frame: pd.DataFrame) -> str:
    """The paper's Table 2: modfill's PSNR / PSNR matched from each single source (rows) to each target (columns)."""
    own = frame[(frame.method == OURS) & frame.sources.isin(MODALITIES)]
    if own.empty:
        return ""
    means = own.groupby(["sources", "target"])[["psnr", "psnr_matched"]].mean()
    lines = [_row("modfill, from", *(f"to {_short(m)}" for m in MODALITIES)), _rule(1 + len(MODALITIES))]
    for source in MODALITIES:
        cells = [means.loc[(source, t)] if (source, t) in means.index else None for t in MODALITIES]
        lines.append(
            _row(_short(source), *("" if c is None else f"{c.psnr:.2f} / {c.psnr_matched:.2f}" for c in cells))
        )
    return "\n".join(lines) + "\n"


def every_task(frame: pd.DataFrame) -> str:
    """Every task of every method, ± the standard deviation over the cases."""
    lines = [_row("method", "sources", "target", *SHOWN), _rule(3 + len(SHOWN))]
    for (name, sources, target), rows in frame.groupby(["method", "sources", "target"], sort=False):
        cells = (f"{rows[s].mean():.3f} ± {rows[s].std():.3f}" for s in SHOWN)
        lines.append(_row(name, sources, f"{target} ({_short(target)})", *cells))
    return "\n".join(lines) + "\n"


def plot(frame: pd.DataFrame, path: Path) -> None:
    """Matched PSNR against the number of sources, a line per method, with the cases as points."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    frame = frame.assign(count=frame.sources.str.count(r"\+") + 1)
    by_case = frame.groupby(["method", "count", "case_id"], sort=False).psnr_matched.mean()
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name in frame.method.unique():
        values = by_case[name]
        [line] = axes.plot((1, 2, 3), values.groupby("count").mean(), marker="o", label=name)
        axes.scatter(values.index.get_level_values("count"), values, s=6, alpha=0.4, color=line.get_color())
    axes.set(xlabel="sources", ylabel="matched PSNR, dB", xticks=(1, 2, 3))
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _short(modality: str) -> str:
    return NAMES[modality].split()[0]


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _rule(columns: int) -> str:
    return "|---" * columns + "|"
