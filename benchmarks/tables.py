"""The rows of the benchmarks on disk, and the tables and the plot of the translation benchmark."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.papers_matrix import papers_matrix
from benchmarks.scales import COLUMNS as SCALES
from modfill.modalities import BRATS, MODALITIES

SHOWN = ("psnr", "psnr_brain", "ssim", "psnr_matched", "ssim_matched")
OURS = "modfill"
PAPER = {"T1 to T2": ("t1n", "t2w"), "T2 to FLAIR": ("t2w", "t2f")}  # the BraTS tasks of its Table 1
TUMOUR_TASKS = PAPER | {"3 to FLAIR": ("t1n+t1c+t2w", "t2f"), "3 to T1ce": ("t1n+t2w+t2f", "t1c")}

SCALE_NAMES = {
    "psnr": "protocol PSNR", "psnr_brain": "brain only PSNR", "ssim_brain": "brain only SSIM",
    "psnr_cwdm_224": "cWDM PSNR, 224x224x160", "psnr_cwdm_240": "cWDM PSNR, 240x240x155",
    "psnr_wfm": "WFM PSNR", "ssim_wfm": "WFM SSIM",
    "ssim_brasyn_healthy": "BraSyn SSIM, healthy", "ssim_brasyn_tumour": "BraSyn SSIM, tumour",
    "ssim_brasyn_healthy_volume": "BraSyn healthy, whole volume",
    "ssim_brasyn_tumour_volume": "BraSyn tumour, whole volume",
}  # fmt: skip
PUBLISHED = {
    "cWDM, as published, BraTS 2023": {"psnr_cwdm_224": "29.35-29.74", "psnr_cwdm_240": "29.35-29.74"},
    "WFM, as published, BraTS 2024": {"psnr_wfm": "26.8", "ssim_wfm": "0.94"},
}


def scored(table: Path, columns: Sequence[str], keys: int) -> set[tuple[str, ...]]:
    """The first `keys` columns of the rows that an earlier run wrote to a CSV file, to which `append` can add.

    Raises:
        ValueError: an older version began the file with other columns.
    """
    if not table.exists():
        return set()
    begun = read(table)
    if tuple(begun) != tuple(columns):
        raise ValueError(f"{table} must have the columns {', '.join(columns)}, got {', '.join(begun)}; "
                         "an older version began it: give another --out")  # fmt: skip
    return set(begun[list(columns[:keys])].itertuples(index=False, name=None))


def read(table: Path) -> pd.DataFrame:
    """The rows of a CSV file; a case may be called `001`."""
    return pd.read_csv(table, dtype={"case_id": str})


def append(table: Path, columns: Sequence[str], rows: Iterable[dict]) -> None:
    """Add rows to a CSV file, with a header if it is new."""
    new = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if new:
            writer.writeheader()
        writer.writerows(rows)


def summary(frame: pd.DataFrame, reconstruction: pd.DataFrame | None = None) -> str:
    """All tables of the translation benchmark as Markdown.

    Every method by number of sources, modfill's wins, the paper's two tasks, the tumour, sharpness, the gain of one
    more source, the paper's Table 2 (of IXI its Table D), plain and matched and in its own form, the scales of others,
    and every task. A table whose tasks were not scored is left out.

    Args:
        frame: the rows of `translation.csv`.
        reconstruction: those of `reconstruction.csv`, for the diagonal of Table 2.
    """
    complete = any_subset(frame)
    if not set(frame.target) <= set(MODALITIES):
        parts = [overview(complete), wins(frame), papers_matrix(frame, OURS, reconstruction), every_task(frame)]
        return "\n".join(part for part in parts if part)
    parts = [overview(complete), wins(frame), papers_tasks(frame), tumour(complete), sharp(complete),
             added(frame), matrix(frame, reconstruction), papers_matrix(frame, OURS, reconstruction),
             scales_of_others(frame), every_task(frame)]  # fmt: skip
    return "\n".join(part for part in parts if part)


def any_subset(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the methods that were scored on most tasks; means of the others' few tasks would not compare."""
    tasks = (frame.sources + " " + frame.target).groupby(frame.method).nunique()
    return frame[frame.method.map(tasks) == tasks.max()]


def overview(frame: pd.DataFrame) -> str:
    """The paper's Table 1: means over 1→1, 2→1, 3→1 and all tasks, ± the standard deviation over the cases."""
    if frame.empty:
        return ""
    frame = frame.assign(count=frame.sources.str.count(r"\+") + 1)
    lines = [_row("method", "tasks", *SHOWN), _rule(2 + len(SHOWN))]
    for name, rows in frame.groupby("method", sort=False):
        parts = [(f"{n}→1", part) for n, part in rows.groupby("count")]
        for label, part in parts + [(_all(rows), rows)] * (len(parts) > 1):
            by_case = part.groupby("case_id")[list(SHOWN)].mean()
            lines.append(_row(name, label, *(f"{by_case[s].mean():.3f} ± {by_case[s].std():.3f}" for s in SHOWN)))
    return "\n".join(lines) + "\n"


def wins(frame: pd.DataFrame) -> str:
    """The number of (case, task) pairs in which modfill is ahead of each rival."""
    by_task = frame.pivot_table(index=["case_id", "sources", "target"], columns="method", values=list(SHOWN))
    rivals = [name for name in frame.method.unique() if not name.startswith(OURS)]
    if OURS not in set(frame.method) or not rivals:
        return ""
    lines = [_row("modfill is ahead of", *SHOWN, "of"), _rule(2 + len(SHOWN))]
    for rival in rivals:
        pairs = [by_task[shown][[OURS, rival]].dropna() for shown in SHOWN]
        lines.append(_row(rival, *(int((pair[OURS] > pair[rival]).sum()) for pair in pairs), len(pairs[0])))
    return "\n".join(lines) + "\n"


def papers_tasks(frame: pd.DataFrame) -> str:
    """The paper's Table 1 for the two tasks that it shares with these cases, beside the paper's own figures."""
    if not any(((frame.sources == source) & (frame.target == target)).any() for source, target in PAPER.values()):
        return ""
    lines = [_row("method", *(f"{name}, psnr / psnr_matched / ssim" for name in PAPER)), _rule(1 + len(PAPER))]
    for name in frame.method.unique():
        cells = []
        for source, target in PAPER.values():
            rows = frame[(frame.method == name) & (frame.sources == source) & (frame.target == target)]
            means = f"{rows.psnr.mean():.2f} / {rows.psnr_matched.mean():.2f} / {rows.ssim.mean():.3f}"
            cells.append(means if len(rows) else "–")
        lines.append(_row(name, *cells))
    lines.append(_row("the paper, 1,251 training cases", "25.818 / – / 0.904", "25.074 / – / 0.867"))
    return "\n".join(lines) + "\n"


def tumour(frame: pd.DataFrame) -> str:
    """PSNR and matched PSNR inside the tumour, in cases with a segmentation."""
    frame = frame.dropna(subset=["psnr_tumour"])
    if frame.empty:
        return ""
    scored_tasks = set(zip(frame.sources, frame.target, strict=True))
    tasks = {name: task for name, task in TUMOUR_TASKS.items() if task in scored_tasks}
    lines = [_row("in the tumour", *tasks, _all(frame)), _rule(2 + len(tasks))]
    for name, rows in frame.groupby("method", sort=False):
        parts = [rows[(rows.sources == s) & (rows.target == t)] for s, t in tasks.values()] + [rows]
        cells = (f"{part.psnr_tumour.mean():.2f} / {part.psnr_tumour_matched.mean():.2f}" for part in parts)
        lines.append(_row(name, *cells))
    return "\n".join(lines) + "\n"


def sharp(frame: pd.DataFrame) -> str:
    """Fine detail as a share of the acquired image's, by target."""
    if frame.empty:
        return ""
    means = frame.pivot_table(index="method", columns="target", values="sharpness", sort=False)
    lines = [_row("fine detail, acquired = 1", *(f"to {_short(m)}" for m in MODALITIES)), _rule(1 + len(MODALITIES))]
    lines += [_row(name, *(f"{row[m]:.2f}" for m in MODALITIES)) for name, row in means.iterrows()]
    return "\n".join(lines) + "\n"


def added(frame: pd.DataFrame) -> str:
    """Table of the effect of one more source on modfill: matched PSNR by number of sources, and the worst step."""
    own = frame[frame.method == OURS]
    if own.sources.str.count(r"\+").nunique() < len(MODALITIES) - 1:
        return ""
    means = own.groupby(["target", "sources"]).psnr_matched.mean()
    lines = [
        _row("modfill, to", "1 source, mean", "best", "2 sources", "3 sources", "a source more", "worst"),
        _rule(7),
    ]
    for target in MODALITIES:
        by_set = {frozenset(sources.split("+")): value for sources, value in means[target].items()}
        sizes = [[value for one, value in by_set.items() if len(one) == n] for n in (1, 2, 3)]
        steps = [by_set[more] - by_set[less] for less in by_set for more in by_set
                 if less < more and len(more) == len(less) + 1]  # fmt: skip
        falls = sum(step < 0 for step in steps)
        cells = [sum(sizes[0]) / len(sizes[0]), max(sizes[0]), *(sum(size) / len(size) for size in sizes[1:])]
        lines.append(_row(_short(target), *(f"{cell:.2f}" for cell in cells), f"hurts in {falls} of {len(steps)} steps",
                          f"{min(steps):+.2f}"))  # fmt: skip
    return "\n".join(lines) + "\n"


def matrix(frame: pd.DataFrame, reconstruction: pd.DataFrame | None = None) -> str:
    """The paper's Table 2: modfill's PSNR / PSNR matched from each single source (rows) to each target (columns).

    The diagonal is the autoencoder's reconstruction of the modality.
    """
    own = frame[(frame.method == OURS) & frame.sources.isin(MODALITIES)]
    if own.empty:
        return ""
    if reconstruction is not None:
        own = pd.concat([own, reconstruction.assign(sources=reconstruction.modality, target=reconstruction.modality)])
    means = own.groupby(["sources", "target"])[["psnr", "psnr_matched"]].mean()
    lines = [_row("modfill, from", *(f"to {_short(m)}" for m in MODALITIES)), _rule(1 + len(MODALITIES))]
    for source in MODALITIES:
        cells = [means.loc[(source, t)] if (source, t) in means.index else None for t in MODALITIES]
        lines.append(
            _row(_short(source), *("" if c is None else f"{c.psnr:.2f} / {c.psnr_matched:.2f}" for c in cells))
        )
    return "\n".join(lines) + "\n"


def scales_of_others(frame: pd.DataFrame) -> str:
    """Means of one missing modality by the definitions of other papers (`benchmarks.scales`), beside what they state.

    Rows that an older version wrote have no such figures and are left out.
    """
    if not set(SCALES) <= set(frame):
        return ""
    frame = frame[frame.sources.str.count(r"\+") == len(MODALITIES) - 2].dropna(subset=["psnr_wfm"])
    if frame.empty:
        return ""
    columns = ("psnr", "psnr_brain", "ssim_brain", *SCALES)
    lines = [
        "Scales of others: one missing modality from all others, never matched. cWDM's published PSNR stands in the "
        "columns of cWDM and WFM's figures in those of WFM; no other two figures of this table compare.\n",
        _row("method", "to", *(SCALE_NAMES[name] for name in columns)),
        _rule(2 + len(columns)),
    ]
    for method, rows in frame.groupby("method", sort=False):
        targets = [(_short(m), rows[rows.target == m]) for m in MODALITIES if (rows.target == m).any()]
        for label, part in [*targets, ("all", rows)]:
            means = part.groupby("case_id")[list(columns)].mean().mean().items()
            cells = ("" if pd.isna(v) else f"{v:.2f}" if name.startswith("psnr") else f"{v:.3f}" for name, v in means)
            lines.append(_row(method, label, *cells))
    for name, figures in PUBLISHED.items():
        lines.append(_row(f"*{name}*", "", *(figures.get(c, "") for c in columns)))
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
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for name in frame.method.unique():
        values = by_case[name]
        means = values.groupby("count").mean()
        [line] = axes.plot(means.index, means, marker="o", label=name)
        axes.scatter(values.index.get_level_values("count"), values, s=6, alpha=0.4, color=line.get_color())
    axes.set(xlabel="sources", ylabel="matched PSNR, dB", xticks=(1, 2, 3))
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _all(rows: pd.DataFrame) -> str:
    return f"all {len(set(zip(rows.sources, rows.target, strict=True)))}"


def _short(modality: str) -> str:
    return BRATS[modality].short if modality in MODALITIES else modality.upper()


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _rule(columns: int) -> str:
    return "|---" * columns + "|"
