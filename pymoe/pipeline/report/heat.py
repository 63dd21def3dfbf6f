"""A table of numbers as a picture: white to dark blue, the numbers written into it.  Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def draw(ax: Any, values: np.ndarray, written: Sequence[str], *, top: float, size: float) -> Any:
    """values (rows, columns) on ``ax``, each cell with its text; white is 0, dark blue ``top``."""
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


def names(ax: Any, down: Sequence[str], across: Sequence[str], *, turn: bool = True) -> None:
    """What stands beside the rows and under the columns, slanting where it is long."""
    ax.set_yticks(range(len(down)), down)
    turned = turn and max(map(len, across)) > (7 if len(across) > 4 else 10)
    style: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    ax.set_xticks(range(len(across)), across, **style)


def size(n: int) -> float:
    """Of the text in n cells side by side."""
    return 9 if n <= 15 else 7
