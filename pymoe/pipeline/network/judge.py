"""Who decides which parameters are kept, and what is said meanwhile."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


class Judge:
    """Keeps the parameters with the least held-out loss; where nothing is held out, the last.

    Parameters replace the best so far if their loss is lower by more than ``tol`` and by more than one standard error
    of the difference, √N std(d), d_n = s_n (l_n - l*_n) over the N held-out rows.  Of few rows chance is as large:
    336 short texts, experts kept at any gain 0.571 of new ones right, at a clear one 0.601, their dense twin 0.604
    (``examples/11_classify_english_and_chinese.py``).
    """

    def __init__(
        self, losses: Callable[[dict[str, Any]], np.ndarray] | None, tol: float, progress: Progress, seen: list[float]
    ) -> None:
        """losses(p): s_n l_n (N,) of the held-out rows, the sum their loss; None: nothing is held out."""
        self._losses, self._tol, self._progress, self._seen = losses, tol, progress, seen
        self._least: np.ndarray | None = None
        self.waited = 0
        self.best: dict[str, Any] = {}

    def see(self, p: dict[str, Any], what: str) -> float:
        """The held-out loss of p, -∞ where there is none; ``waited`` counts the times since the best."""
        if self._losses is None:
            self.best = p
            self._progress.say(what)
            return -math.inf
        now = self._losses(p)
        self._seen.append(float(now.sum()))
        self._progress.say(f"{what}: held-out loss {self._seen[-1]:.4f}")
        self.waited += 1
        if self._least is None or self._clearly_less(now - self._least):
            self.best, self._least, self.waited = p, now, 0
        return self._seen[-1]

    def _clearly_less(self, d: np.ndarray) -> bool:
        return bool(d.sum() < -max(self._tol, len(d) ** 0.5 * float(d.std())))


class Progress:
    """A bar of the passes on a terminal, or a line for each step of the training; nothing unless ``verbose``."""

    def __init__(self, verbose: bool, name: str) -> None:
        self._on, self._name, self._bar = bool(verbose), name, None

    def __enter__(self) -> Progress:
        return self

    def passes(self, total: int) -> Iterator[int]:
        """0 to total - 1, each shown when it is done."""
        if self._on and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=self._name, unit="pass", dynamic_ncols=True)
        for i in range(total):
            yield i
            if self._bar is not None:
                self._bar.update(1)

    def say(self, what: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(what)
        elif self._on:
            print(f"{self._name}: {what}", flush=True)

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()
