"""Time several contenders in one interleaved run: each lives in a process of its own, one runs at a time.

A process each, because a BLAS core type or a thread pool cannot be changed once it is loaded, and because idle OpenMP
threads of one library spin on the cores that the next one needs.  Rounds go once through all contenders in turn, so
that a slow minute of the machine hits all of them; the median over rounds is reported.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent


class Contender:
    """A worker process that prepares itself and then times one call of its function whenever asked."""

    def __init__(self, name: str, script: str, arguments: list[str], env: dict[str, str] | None = None) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.ready = self._read()

    def _read(self) -> str:
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            if not line:
                assert self.process.stderr is not None
                raise RuntimeError(self.process.stderr.read().strip().splitlines()[-1:] or ["no message"])
            if line.startswith("@"):
                return line[1:].strip()

    def ask(self, word: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def serve(functions: dict[str, Callable[[], object]]) -> None:
    """The worker's side: say what can be asked, then time one call for each line; "=name" answers a value instead."""
    print("@" + " ".join(functions), flush=True)
    for line in sys.stdin:
        word = line.strip()
        if word.startswith("="):
            print(f"@{functions[word[1:]]()}", flush=True)
            continue
        start = time.perf_counter()
        result = functions[word]()
        taken = time.perf_counter() - start
        del result  # freeing what was returned is not its work
        print(f"@{taken:.9f}", flush=True)


def medians(
    contenders: list[Contender], modes: list[str], rounds: int, patience: float
) -> dict[tuple[str, str], float]:
    """{(contender, mode): median seconds}.

    One that takes over ``patience`` seconds runs in fewer rounds, one that takes four times as long runs once; one that
    dies (out of memory, say) is reported and left out.
    """
    todo = [(c, m) for c in contenders for m in modes if m in c.ready.split()]
    times: dict[tuple[str, str], list[float]] = {(c.name, m): [] for c, m in todo}
    for r in range(rounds + 1):  # the first round warms up
        for c, m in list(todo):
            taken = times[c.name, m]
            if sum(taken) > 4 * patience:
                continue
            time.sleep(0.02)  # the last one's idle threads stop spinning
            try:
                if taken and taken[-1] < 0.5:
                    c.ask(m)  # untimed: what a loop would find in the caches and in memory is there again
                seconds = float(c.ask(m))
            except RuntimeError as why:
                print(f"  ({c.name} died: {why})")
                todo = [(other, mode) for other, mode in todo if other is not c]
                continue
            if r > 0 or seconds > patience:
                taken.append(seconds)
    return {key: statistics.median(taken) for key, taken in times.items() if taken}
