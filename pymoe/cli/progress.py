"""What a user sees while a model trains: a bar on a terminal (tqdm, where installed), plain lines everywhere else."""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import Any

from pymoe.train.settings import TrainSettings, UpdateSettings
from pymoe.train.step import Measured


class Progress:
    """A ``train.fit.Reporter`` that prints."""

    def __init__(self, label: str, settings: UpdateSettings, start: int, *, tokens: float | None = None) -> None:
        """``tokens``: a step's, where they are not rows x window of a ``TrainSettings``."""
        self._settings = settings
        self._tokens = settings.rows * settings.window if isinstance(settings, TrainSettings) else tokens or 0.0
        self._begin, self._start, self._step = time.perf_counter(), start, start
        self._last: Measured | None = None
        self._smooth: float | None = None
        self._bar: Any = None
        if sys.stderr.isatty() and importlib.util.find_spec("tqdm"):
            from tqdm import tqdm

            self._bar = tqdm(total=settings.steps, initial=start, desc=label, unit="step", dynamic_ncols=True)

    @property
    def tokens_per_second(self) -> float:
        """Since this process began to train."""
        done = (self._step - self._start) * self._tokens
        return done / max(time.perf_counter() - self._begin, 1e-9)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._begin

    def stepped(self, step: int, measured: Measured) -> None:
        self._step, self._last = step, measured
        loss = measured.main
        self._smooth = loss if self._smooth is None else 0.95 * self._smooth + 0.05 * loss
        if self._bar is not None:
            self._bar.set_postfix_str(self._state(), refresh=False)
            self._bar.update(1)

    def held_out(self, step: int, loss: float) -> None:
        self.say(f"step {step:>{len(str(self._settings.steps))}}/{self._settings.steps}  held-out loss {loss:.4f}")

    def say(self, line: str) -> None:
        """A line that stays, with the state of training where no bar shows it."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stdout)
        else:
            print(line + ("  " + self._state() if self._last is not None else ""), flush=True)

    def saved(self, step: int) -> None:
        """Nothing to see."""

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _state(self) -> str:
        m = self._last
        assert m is not None and self._smooth is not None
        state = f"loss {self._smooth:.3f}  {self.tokens_per_second:,.0f} tokens/s"
        if m.load:
            state += f"  expert load max/mean {max(max(n) * len(n) / max(sum(n), 1) for n in m.load):.2f}"
        return state
