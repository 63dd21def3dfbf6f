"""The pictures of a report: confusion.png and experts.png.  Needs matplotlib.

White to dark blue, as in the HTML: an error is seen on white, colour blindness and print in grey change nothing.  A
label that no installed font can draw stands as its number (``fonts``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pymoe.pipeline.report import fonts
from pymoe.pipeline.report.measure import Report
from pymoe.train import plots

MOST = 30  # classes in a picture; the others are in the HTML


def draw(folder: str, report: Report) -> tuple[list[str], list[str]]:
    """Write the pictures into ``folder``; returns their paths, and what the numbers in them stand for."""
    import matplotlib

    classes = fonts.drawn(report.classes, "class")
    experts = fonts.drawn([e.name for e in report.experts], "expert")
    families = list(dict.fromkeys(classes.families + experts.families))
    with matplotlib.rc_context({"font.size": 10, "font.family": families}):
        made = [_confusion(folder, report, classes.labels)]
        if report.experts:
            made.append(_experts(folder, report, classes.labels, experts.labels))
    return made, classes.legend + experts.legend


def _kept(report: Report) -> list[int]:
    largest = sorted(range(len(report.classes)), key=lambda i: (-report.per_class[i].texts, i))[:MOST]
    return sorted(largest)


def _confusion(folder: str, report: Report, names: Sequence[str]) -> str:
    kept = _kept(report)
    counts = report.confusion[np.ix_(kept, kept)]
    share = counts / np.maximum(report.confusion[kept].sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.56 * len(kept)
    figure, axes = plots.canvas(max(5.0, side + 1.2), max(3.8, side))
    ax = axes[0, 0]
    image = _map(ax, 100 * share, [f"{n:,}" if n else "" for n in counts.ravel()], top=100.0, size=_size(len(kept)))
    _labels(ax, [names[i] for i in kept], [names[i] for i in kept])
    ax.set_xlabel("answer")
    ax.set_ylabel("truth")
    best = next(iter(report.scores.values()))
    less = f" ({len(kept)} largest of {len(report.classes)} classes)" if len(kept) < len(report.classes) else ""
    ax.set_title(
        f"accuracy {best.accuracy:.3f}, macro-F1 {best.macro_f1:.3f}, {report.texts:,} texts{less}", fontsize=10
    )
    figure.colorbar(image, ax=ax, pad=0.02).set_label("share of the class's texts (%)")
    return plots.write(figure, folder, "confusion.png")


def _experts(folder: str, report: Report, names: Sequence[str], experts: Sequence[str]) -> str:
    kept = _kept(report)
    share = 100 * report.by_class[:, kept].T
    figure, axes = plots.canvas(max(5.0, 3.2 + 0.5 * len(report.experts)), max(3.0, 1.8 + 0.42 * len(kept)))
    ax = axes[0, 0]
    written = [f"{v:.0f}" for v in share.ravel()]
    image = _map(ax, share, written, top=max(float(share.max()), 1e-9), size=_size(len(report.experts)))
    _labels(ax, [names[i] for i in kept], experts)
    ax.set_xlabel("expert")
    ax.set_ylabel("class")
    ax.set_title("which expert answers for which class", fontsize=10)
    figure.colorbar(image, ax=ax, pad=0.02).set_label("mean weight of the expert (%)")
    return plots.write(figure, folder, "experts.png")


def _map(ax: Any, values: np.ndarray, written: Sequence[str], *, top: float, size: float) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    blues = LinearSegmentedColormap.from_list("report", ["#f7f9fc", "#7fb0d3", "#004a7c"])
    image = ax.imshow(values, aspect="auto", cmap=blues, vmin=0, vmax=top)
    columns = values.shape[1]
    for n, text in enumerate(written):
        i, j = divmod(n, columns)
        colour = "white" if values[i, j] > 0.6 * top else "#1a1a1a"
        ax.text(j, i, text, ha="center", va="center", color=colour, fontsize=size)
    ax.set_xticks(np.arange(columns - 1) + 0.5, minor=True)
    ax.set_yticks(np.arange(len(values) - 1) + 0.5, minor=True)
    ax.grid(which="minor", color="white", lw=1.5)
    ax.tick_params(length=0, which="both")
    for spine in ax.spines.values():
        spine.set_visible(False)
    return image


def _labels(ax: Any, down: Sequence[str], across: Sequence[str], *, turn: bool = True) -> None:
    ax.set_yticks(range(len(down)), down)
    turned = turn and max(map(len, across)) > (7 if len(across) > 4 else 10)
    style: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    ax.set_xticks(range(len(across)), across, **style)


def _size(n: int) -> float:
    return 9 if n <= 15 else 7
