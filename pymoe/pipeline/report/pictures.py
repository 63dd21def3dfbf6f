"""The pictures of a report: confusion.png and experts.png.  Needs matplotlib.

White to dark blue, as in the HTML: an error is seen on white, colour blindness and print in grey change nothing.  A
label that no installed font can draw stands as its number (``fonts``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pymoe.pipeline.report import fonts, heat, routing
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
    image = heat.draw(
        ax, 100 * share, [f"{n:,}" if n else "" for n in counts.ravel()], top=100.0, size=heat.size(len(kept))
    )
    heat.names(ax, [names[i] for i in kept], [names[i] for i in kept])
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
    figure = routing.figure(report.by_class[:, kept], [names[i] for i in kept], experts)
    return plots.write(figure, folder, "experts.png")
