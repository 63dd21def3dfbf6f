"""The learning curve of a translator: loss and BLEU over the steps, the sparse model beside its dense twin."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pymoe.io import records
from pymoe.models.seq2seq import LOSS
from pymoe.train import plots


def draw(folder: str, runs: Mapping[str, str], *, tokens: float, name: str = "learning.png") -> str:
    """Write ``name`` into ``folder`` and return its path; ``runs``: label -> its metrics.jsonl; ``tokens`` a step's."""
    import matplotlib

    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plots.canvas(11, 4.3, columns=2)
        left, right = axes[0]
        highest = 0.0
        for (label, path), colour in zip(runs.items(), (plots.BLUE, plots.ORANGE), strict=False):
            rows = list(records.read(path))
            trained = np.array([(r["step"], r[LOSS]) for r in rows if LOSS in r])
            held = np.array([(r["step"], r["held_out"]) for r in rows if "held_out" in r])
            bleu = np.array([(r["step"], r["bleu"]) for r in rows if "bleu" in r])
            if len(trained):
                smooth = plots.smooth(trained[:, 1])
                left.plot(trained[:, 0], smooth, color=colour, lw=1, alpha=0.55, label=f"{label}, training*")
                highest = max(highest, smooth[len(smooth) // 5])
            if len(held):
                left.plot(*held.T, color=colour, marker="o", ms=4, lw=1.8, label=f"{label}, held out")
                highest = max(highest, *(held[1:, 1] if len(held) > 1 else held[:, 1]))
            if len(bleu):
                right.plot(*bleu.T, color=colour, marker="o", ms=4, lw=1.8, label=f"{label}: {bleu[-1, 1]:.1f}")
        if highest:
            left.set_ylim(0, 1.1 * highest)
        left.set_ylabel("cross-entropy (nats a token)")
        right.set_ylabel("BLEU of the held-out sample, greedy")
        right.set_ylim(0, 1.1 * max(right.get_ylim()[1], 1.0))
        at = f"optimiser step (about {tokens:,.0f} tokens each)"
        left.set_xlabel(at + "\n* running mean, with dropout and smoothed targets")
        right.set_xlabel(at)
        for ax, corner in ((left, "upper right"), (right, "lower right")):
            ax.set_xlim(left=0)
            ax.grid(alpha=0.25)
            if ax.get_legend_handles_labels()[0]:
                ax.legend(frameon=False, loc=corner)
        return plots.write(figure, folder, name)
