"""The pictures of a run: loss, load of the experts over time, routing by kind of token.  Needs matplotlib.

Colours: Okabe and Ito's palette for lines, cividis for maps; both survive colour blindness and print in grey.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pymoe.io import atomic, records
from pymoe.train import kinds
from pymoe.train.kinds import Layer
from pymoe.train.settings import TrainSettings
from pymoe.train.vocabulary import Vocabulary

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"


def draw(
    folder: str,
    settings: TrainSettings,
    layers: Sequence[Layer],
    vocabulary: Vocabulary,
    runs: Mapping[str, str],
) -> list[str]:
    """Write loss.png, load.png, routing.png into ``folder``, return the paths; ``runs``: label -> its metrics.jsonl."""
    import matplotlib

    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        made = [_loss(folder, settings, runs)]
        if layers:
            made.append(_load(folder, settings, layers, next(iter(runs.values()))))
            made.append(_routing(folder, layers, vocabulary))
    return [path for path in made if path]


def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **settings: Any) -> tuple[Any, Any]:
    """A figure without pyplot: no window system, no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **settings)


def _loss(folder: str, settings: TrainSettings, runs: Mapping[str, str]) -> str:
    figure, axes = canvas(7.5, 4.5)
    ax = axes[0, 0]
    lowest, highest = np.inf, -np.inf
    ends = []
    for (label, path), colour in zip(runs.items(), (BLUE, ORANGE), strict=False):
        rows = list(records.read(path))
        steps = np.array([r["step"] for r in rows if "lm" in r])
        loss = np.array([r["lm"] for r in rows if "lm" in r])
        held = np.array([(r["step"], r["held_out"]) for r in rows if "held_out" in r])
        if len(loss):
            ax.plot(steps, smooth(loss), color=colour, lw=1, alpha=0.55, label=f"{label}, training (smoothed)")
            lowest = min(lowest, smooth(loss).min())
        if len(held):
            ax.plot(held[:, 0], held[:, 1], color=colour, marker="o", ms=4, lw=1.8, label=f"{label}, held out")
            ends.append((held[-1, 1], held[-1, 0], colour))
            later = held[held[:, 0] > 0.02 * settings.steps, 1]
            highest = max(highest, later.max() if len(later) else held.max())
            lowest = min(lowest, held[:, 1].min())
    if np.isfinite(lowest + highest) and highest > lowest:
        ax.set_ylim(lowest - 0.05 * (highest - lowest), highest + 0.25 * (highest - lowest))
    for place, (loss_at_end, at, colour) in zip(("top", "bottom"), sorted(ends), strict=False):  # the better one below
        style = {"textcoords": "offset points", "va": place if len(ends) > 1 else "center", "color": colour}
        ax.annotate(f"{loss_at_end:.3f}", (at, loss_at_end), xytext=(6, 0), **style)
    ax.set_xlim(0, settings.steps * 1.09)
    ax.set_xlabel(f"optimiser step ({settings.rows * settings.window:,} tokens each)")
    ax.set_ylabel("cross-entropy (nats a token)")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return write(figure, folder, "loss.png")


def _load(folder: str, settings: TrainSettings, layers: Sequence[Layer], path: str) -> str:
    rows = [r for r in records.read(path) if "expert_load" in r]
    if not rows:
        return ""
    steps = np.array([r["step"] for r in rows])
    figure, axes = canvas(7.5, 1.2 + 1.6 * len(layers), rows=len(layers), sharex=True)
    groups = max(1, len(rows) // 200)  # average neighbours so that no column is thinner than a pixel
    image = None
    for i, layer in enumerate(layers):
        load = np.array([r["expert_load"][i] for r in rows], dtype=np.float64)
        load = np.stack([part.mean(axis=0) for part in np.array_split(load, max(1, len(rows) // groups))])
        fair = load / np.maximum(load.mean(axis=1, keepdims=True), 1e-12)
        ax = axes[i, 0]
        image = ax.imshow(
            fair.T, aspect="auto", origin="lower", cmap="cividis", vmin=0, vmax=2, interpolation="nearest",
            extent=(0, steps[-1], -0.5, fair.shape[1] - 0.5),
        )  # fmt: skip
        ax.set_ylabel(f"block {layer.layer}\nexpert")
        ax.yaxis.get_major_locator().set_params(integer=True)
    axes[-1, 0].set_xlabel("optimiser step")
    bar = figure.colorbar(image, ax=axes[:, 0].tolist(), extend="max", pad=0.02)
    bar.set_label("load / fair share  (1 = balanced)")
    return write(figure, folder, "load.png")


def _routing(folder: str, layers: Sequence[Layer], vocabulary: Vocabulary) -> str:
    columns = 1 if len(layers) == 1 else 2
    rows = -(-len(layers) // columns)
    experts = layers[0].counts.shape[1]
    width, height = max(5.0, 1.6 + 0.42 * experts), 4.0
    figure, axes = canvas(width * columns + 0.6, height * rows, rows=rows, columns=columns)
    image = None
    top = max(float(kinds.by_kind(layer, vocabulary)[1].max()) for layer in layers)
    for ax, layer in zip(axes.flat, layers, strict=False):
        names, share = kinds.by_kind(layer, vocabulary)
        image = ax.imshow(100 * share.T, aspect="auto", cmap="cividis", vmin=0, vmax=100 * top)
        ax.set_xticks(range(experts))
        ax.set_yticks(range(len(names)), names)
        ax.set_title(f"block {layer.layer}")
        ax.set_xlabel("expert")
        ax.tick_params(length=0)
        for e in range(experts):
            for j in range(len(names)):
                colour = "white" if share[e, j] < 0.55 * top else "black"
                ax.text(e, j, f"{100 * share[e, j]:.0f}", ha="center", va="center", color=colour, fontsize=7)
    for ax in list(axes.flat)[len(layers) :]:
        ax.set_visible(False)
    bar = figure.colorbar(image, ax=axes.ravel().tolist(), pad=0.02)
    bar.set_label("of this kind's choices, to this expert (%)")
    return write(figure, folder, "routing.png")


def smooth(values: np.ndarray) -> np.ndarray:
    """A centred moving average over a fiftieth of the run."""
    half = max(1, len(values) // 100)
    total = np.concatenate([[0.0], np.cumsum(values)])
    lo = np.maximum(np.arange(len(values)) - half, 0)
    hi = np.minimum(np.arange(len(values)) + half + 1, len(values))
    smooth: np.ndarray = (total[hi] - total[lo]) / (hi - lo)
    return smooth


def write(figure: Any, folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    atomic.write(path, [picture.getvalue()])
    return path
