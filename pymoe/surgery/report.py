"""The table of ``compress`` for a person to choose by: Markdown, CSV, JSON, and a picture where matplotlib is."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from pymoe.io import atomic
from pymoe.surgery.compress import Row

COLUMNS = {
    "label": "what", "level": "level", "zeros": "expert weights gone", "parameters": "numbers stored",
    "active": "of them active", "bytes": "bytes", "loss": "held-out loss", "tuned": "after fine-tuning",
    "speed": "tokens/s",
}  # fmt: skip
# Okabe and Ito's palette without its yellow, which white paper swallows, and its black, which the star has; in an order
# that keeps neighbours apart.  Markers say the same for grey prints, and none is the star.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#777777", "#6A3D9A", "#B8860B")
MARKERS = "osD^vPX<>hp"


def lines(rows: Sequence[Row]) -> list[str]:
    """A table in Markdown, that also reads well as plain text."""
    cells = [list(COLUMNS.values())] + [_cells(row) for row in rows]
    width = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    pad = [
        [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, width, strict=True))]
        for line in cells
    ]
    rule = ["-" * width[0]] + ["-" * (w - 1) + ":" for w in width[1:]]
    return [f"| {' | '.join(line)} |" for line in (pad[0], rule, *pad[1:])]


def _cells(row: Row) -> list[str]:
    return [
        row.label,
        f"{row.level:.0%}",
        f"{row.zeros:.1%}",
        f"{row.parameters:,}",
        f"{row.active:,}",
        f"{row.bytes:,}",
        f"{row.loss:.4f}",
        "" if row.tuned is None else f"{row.tuned:.4f}",
        f"{row.speed:,.0f}",
    ]


def verdict(rows: Sequence[Row]) -> list[str]:
    """Which candidate loses least at each level, before and after fine-tuning."""
    said = []
    for level in sorted({row.level for row in rows if row.family != "none"}):
        there = [row for row in rows if row.level == level and row.family != "none"]
        best = min(there, key=lambda row: row.loss)
        said.append(f"at {level:.0%}: {best.label} loses least, {best.loss - rows[0].loss:+.4f} to {best.loss:.4f}")
        tuned = [row for row in there if row.tuned is not None]
        if tuned:
            best = min(tuned, key=lambda row: row.tuned if row.tuned is not None else 0.0)
            gain = best.loss - (best.tuned or 0.0)
            what = f"fine-tuning gave back {gain:.4f}" if gain >= 0 else f"fine-tuning cost {-gain:.4f}"
            same = "" if rows[0].tuned is None else f"; the model as it is, trained on alike: {rows[0].tuned:.4f}"
            said.append(f"        after fine-tuning: {best.label}, {best.tuned:.4f} ({what}{same})")
    return said


def write(folder: str, rows: Sequence[Row], about: dict[str, Any]) -> list[str]:
    """compress.md, compress.csv, compress.json in ``folder``; the paths."""
    table = io.StringIO()
    writer = csv.DictWriter(table, list(COLUMNS), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    document = {"about": about, "rows": [dataclasses.asdict(row) for row in rows]}
    made = {
        "compress.md": "\n".join([*lines(rows), "", *(f"- {said.strip()}" for said in verdict(rows))]) + "\n",
        "compress.csv": table.getvalue(),
        "compress.json": json.dumps(document, indent=2, sort_keys=True) + "\n",
    }
    for name, content in made.items():
        atomic.write(os.path.join(folder, name), [content.encode("utf-8")])
    return [os.path.join(folder, name) for name in made]


def draw(folder: str, rows: Sequence[Row]) -> str:
    """compress.png: held-out loss against zeros, bytes and speed; hollow and dashed: after fine-tuning."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3, sharey=True)
    start, labels = rows[0], list(dict.fromkeys(row.label for row in rows[1:]))
    views: tuple[tuple[str, Callable[[Row], float], str], ...] = (
        ("expert weights that are gone", lambda row: 100 * row.zeros, "%"),
        ("size as stored", lambda row: row.bytes / 1e6, "MB"),
        ("speed of a forward", lambda row: row.speed / 1e3, "thousand tokens/s"),
    )
    for ax, (title, x, unit) in zip(axes, views, strict=True):
        ax.axhline(start.loss, color="#777777", linewidth=0.8, zorder=0)
        ax.plot([x(start)], [start.loss], "k*", markersize=11, zorder=5)
        for i, label in enumerate(labels):
            mine = sorted((row for row in rows if row.label == label), key=lambda row: row.level)
            style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 5}
            ax.plot([x(row) for row in mine], [row.loss for row in mine], linewidth=1.2, label=label, **style)
            tuned = [row for row in mine if row.tuned is not None]
            ax.plot(
                [x(row) for row in tuned],
                [row.tuned for row in tuned],
                linewidth=0.9, linestyle="--", markerfacecolor="white", **style,
            )  # fmt: skip
        ax.set_xlabel(f"{title} ({unit})")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("held-out loss, nats a token")
    drawn = [loss for row in rows for loss in (row.loss, row.tuned) if loss is not None]
    note, top = "star, grey line: as it is\ndashed, hollow: after fine-tuning", 2 * start.loss
    if max(drawn) > top:  # one ruined model must not flatten all the others
        axes[0].set_ylim(min(drawn) - 0.03 * start.loss, top)
        note += f"\nnot shown: {sum(loss > top for loss in drawn)} points above {top:.2f}"
    axes[0].text(0.02, 0.98, note, va="top", fontsize=8, transform=axes[0].transAxes)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(labels), 5), frameon=False, fontsize=8)
    path, image = os.path.join(folder, "compress.png"), io.BytesIO()
    figure.savefig(image, format="png")
    atomic.write(path, [image.getvalue()])
    return path
