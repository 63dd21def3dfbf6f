"""A bar for work that is counted in batches: tqdm on a terminal, a line at the start and one at the end elsewhere."""

from __future__ import annotations

import importlib.util
import sys
import time
from types import TracebackType
from typing import Any


class Bar:
    """``with Bar("calibrating", total) as bar: bar.step()``; a total that is not known is None."""

    def __init__(self, label: str, total: int | None = None) -> None:
        self._label, self._begin, self._done = label, time.perf_counter(), 0
        self._bar: Any = None
        self._current: str | None = None
        if sys.stderr.isatty() and importlib.util.find_spec("tqdm"):
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=label, dynamic_ncols=True, leave=False)

    def step(self) -> None:
        self._done += 1
        if self._bar is not None:
            self._bar.update(1)

    def begin(self, what: str) -> None:
        """What is done now; what was done before it is done."""
        if self._current is not None:
            self.step()
        self._current = what
        if self._bar is not None:
            self._bar.set_postfix_str(what)
        else:
            print(f"{self._label}: {what}", flush=True)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if kind is None:
            print(f"{self._label}: done  [{time.perf_counter() - self._begin:.1f} s]", flush=True)
