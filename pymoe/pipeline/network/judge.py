"""Who decides which parameters are kept, and what is said meanwhile."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any


class Judge:
    """Keeps the parameters with the least held-out loss; where nothing is held out, the last."""

    def __init__(
        self, loss: Callable[[dict[str, Any]], float] | None, tol: float, progress: Progress, seen: list[float]
    ) -> None:
        self._loss, self._tol, self._progress, self._seen = loss, tol, progress, seen
        self._least, self.waited = math.inf, 0
        self.best: dict[str, Any] = {}

    def see(self, p: dict[str, Any], what: str) -> float:
        """The held-out loss of p, -∞ where there is none; ``waited`` counts the times since the best."""
        if self._loss is None:
            self.best = p
            self._progress.say(what)
            return -math.inf
        now = float(self._loss(p))
        self._seen.append(now)
        self._progress.say(f"{what}: held-out loss {now:.4f}")
        self.waited += 1
        if now < self._least - self._tol:
            self.best, self._least, self.waited = p, now, 0
        return now


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
