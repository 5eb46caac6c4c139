"""The segmentation benchmark in tables: Dice, HD95, recovered share, paired differences, and the table of choices."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

COMPLETE = "complete"  # the missing set of a case that lacks nothing, and the strategy that fills nothing
OURS = "modfill"
TRAININGS = {
    "complete cases": (OURS, "zeros"), "modality dropout": (f"dropout+{OURS}", "dropout"),
    "completions": ("completed", "dropout"),
}  # fmt: skip
"""For each way of training a segmenter: the strategy with modfill, and the one with empty channels beside it.

A segmenter that is trained with completions is never given empty channels: beside it stands dropout with zeros.
"""


def by_set(frame: pd.DataFrame, value: str = "dice") -> pd.DataFrame:
    """Mean Dice or HD95 over cases and regions: a row per missing set, a column per strategy."""
    return frame.pivot_table(index="missing", columns="strategy", values=value, sort=False)


def recovery(table: pd.DataFrame) -> pd.DataFrame:
    """(filled - zeros) / (complete - zeros) of `by_set`'s table, without the complete row."""
    complete = table.loc[COMPLETE, COMPLETE]
    rest = table.drop(index=COMPLETE, columns=COMPLETE)
    return rest.sub(rest["zeros"], axis=0).div(complete - rest["zeros"], axis=0)


def differences(frame: pd.DataFrame, strategy: str, other: str) -> pd.DataFrame:
    """Dice of one strategy minus another's, paired per case (mean over regions): a row per missing set.

    Returns:
        Columns `gain`, `error` (its standard error; NaN of one case) and `cases`. No row where either was not scored.
    """
    by_case = frame.pivot_table(index=["missing", "case_id"], columns="strategy", values="dice", sort=False)
    if not {strategy, other} <= set(by_case):
        return pd.DataFrame(columns=["gain", "error", "cases"])
    pairs = (by_case[strategy] - by_case[other]).dropna()
    grouped = pairs.groupby("missing", sort=False)
    return pd.DataFrame({"gain": grouped.mean(), "error": grouped.sem(), "cases": grouped.size()})


def choices(frame: pd.DataFrame, weights: str) -> pd.DataFrame:
    """The table that `modfill scan` prints: a row per way of training and missing set.

    Args:
        frame: the rows of `segmentation.csv`.
        weights: SHA-256 of modfill's weights.

    Returns:
        Columns `training`, `missing`, `empty` and `filled` (mean Dice), `gain`, `error`, `cases`, `weights`.
    """
    table, parts = by_set(frame), []
    for training, (with_ours, empty) in TRAININGS.items():
        found = differences(frame, with_ours, empty).drop(index=COMPLETE, errors="ignore")
        if len(found):
            means = {"empty": table.loc[found.index, empty], "filled": table.loc[found.index, with_ours]}
            parts.append(found.assign(training=training, weights=weights, **means).rename_axis("missing").reset_index())
    columns = ["training", "missing", "empty", "filled", "gain", "error", "cases", "weights"]
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)


def summary(frame: pd.DataFrame) -> str:
    """Markdown: means over all missing sets; Dice, HD95, recovered share and paired differences of each set.

    A strategy for a missing T1ce is in the tables of single sets only: its mean is over fewer sets.
    """
    table = by_set(frame)
    sets = table.drop(index=COMPLETE).drop(columns=COMPLETE)
    everywhere = list(sets.columns[sets.notna().all()])
    twins = ", ".join(
        f"{name} network {table.loc[COMPLETE, name]:.3f}"
        for name in ("dropout", "completed")
        if name in table and pd.notna(table.loc[COMPLETE, name])
    )
    parts = [f"Nothing missing: mean Dice {table.loc[COMPLETE, COMPLETE]:.3f} ({twins}).\n",
             _overall(frame, everywhere), _dice(sets)]  # fmt: skip
    distances = by_set(frame, "hd95").drop(index=COMPLETE)[list(sets)]
    parts += [_grid("HD95 in mm, missing", distances, "{:.1f}"),
              _grid("recovered share, missing", recovery(table), "{:.2f}"), _paired(frame)]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _overall(frame: pd.DataFrame, strategies: list[str]) -> str:
    """Means over all missing sets."""
    table = by_set(frame)
    ratios, sets = recovery(table), table.drop(index=COMPLETE)
    gaps = frame[(frame.missing != COMPLETE) & frame.strategy.isin(strategies)]
    regions = gaps.pivot_table(index="strategy", columns="region", values=["dice", "hd95"], sort=False)
    heads = " | ".join(f"{kind} {region}" for kind, region in regions)
    lines = [f"| strategy | mean Dice | recovery | {heads} |", "|---" * (3 + regions.shape[1]) + "|"]
    for name in strategies:
        figures = " | ".join(f"{value:.3f}" for value in regions.loc[name])
        lines.append(f"| {name} | {sets[name].mean():.3f} | {ratios[name].mean():.3f} | {figures} |")
    return "\n".join(lines) + "\n"


def _dice(sets: pd.DataFrame) -> str:
    """Mean Dice of each set, with the best strategy."""
    lines = ["| missing | " + " | ".join(sets.columns) + " | best | ahead of the next by |"]
    lines.append("|---" * (3 + sets.shape[1]) + "|")
    for missing, row in sets.iterrows():
        first, second = row.sort_values(ascending=False).iloc[:2]
        cells = " | ".join(_figure(value, "{:.3f}") for value in row)
        lines.append(f"| {missing} | {cells} | {row.idxmax()} | {first - second:.3f} |")
    return "\n".join(lines) + "\n"


def _grid(title: str, table: pd.DataFrame, form: str) -> str:
    lines = [f"| {title} | " + " | ".join(table.columns) + " |", "|---" * (1 + table.shape[1]) + "|"]
    lines += [f"| {name} | " + " | ".join(_figure(v, form) for v in row) + " |" for name, row in table.iterrows()]
    return "\n".join(lines) + "\n"


def _paired(frame: pd.DataFrame) -> str:
    """Dice that modfill brings beside empty channels, and beside the best strategy of each set, ± standard error."""
    columns = {f"{ours} − {empty}": differences(frame, ours, empty) for ours, empty in TRAININGS.values()}
    columns |= {f"{ours} − best": _to_best(frame, ours) for ours, _ in TRAININGS.values()}
    columns = {name: found for name, found in columns.items() if len(found)}
    if not columns:
        return ""
    lines = ["Dice, paired per case, ± standard error:\n", "| missing | " + " | ".join(columns) + " |",
             "|---" * (1 + len(columns)) + "|"]  # fmt: skip
    for missing in frame.missing.unique():
        if missing != COMPLETE:
            cells = (_with_error(found, missing) for found in columns.values())
            lines.append(f"| {missing} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _to_best(frame: pd.DataFrame, strategy: str) -> pd.DataFrame:
    """`differences` to the strategy with the highest mean Dice in each set; 0 ± 0 where it is the strategy itself."""
    sets = by_set(frame).drop(index=COMPLETE, errors="ignore").drop(columns=COMPLETE, errors="ignore")
    if strategy not in sets:
        return pd.DataFrame()
    best = sets.idxmax(axis=1).items()
    return pd.concat([differences(frame[frame.missing == missing], strategy, name) for missing, name in best])


def _with_error(found: pd.DataFrame, missing: str) -> str:
    if missing not in found.index:
        return "–"
    gain, error = found.loc[missing, ["gain", "error"]]
    return f"{gain:+.3f} ± {error:.3f}" if pd.notna(error) else f"{gain:+.3f}"


def _figure(value: float, form: str) -> str:
    return form.format(value) if pd.notna(value) else "–"


def plot(frame: pd.DataFrame, path: Path) -> None:
    """Mean Dice against the missing set, a line per strategy."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    table = by_set(frame)
    figure, axes = plt.subplots(figsize=(10, 4.5), layout="constrained")
    axes.axhline(table.loc[COMPLETE, COMPLETE], color="black", linestyle=":", label="nothing missing")
    for name, values in table.drop(index=COMPLETE).drop(columns=COMPLETE).items():
        axes.plot(values.index, values, marker="o", label=name, linewidth=2.5 if name == OURS else 1)
    axes.set(xlabel="missing modalities", ylabel="Dice, mean over cases and regions")
    axes.tick_params(axis="x", rotation=60)
    axes.legend(ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)
