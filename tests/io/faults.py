"""A stand-in for the module ``os`` whose n-th write, fsync or rename fails, is cut short, or kills the process."""

from __future__ import annotations

import os
import signal
from typing import Any

CALLS = ("open", "write", "fsync", "replace")


class Faulty:
    """``os`` for a module under test: counts the calls in CALLS; ``fail(n, name)`` may act before the n-th."""

    def __init__(self, fail: Any = None, most: int | None = None) -> None:
        self.calls: list[str] = []
        self._fail, self._most = fail, most

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*args: Any, **settings: Any) -> Any:
            folder = name == "fsync" and os.path.isdir(f"/proc/self/fd/{args[0]}")
            self.calls.append("fsync folder" if folder else name)
            if self._fail is not None:
                self._fail(len(self.calls), name)
            if name == "write" and self._most is not None:
                return real(args[0], bytes(args[1][: self._most]))
            return real(*args, **settings)

        return call


def raising(n: int, code: int) -> Any:
    """Fail the n-th call with this errno."""

    def fail(i: int, name: str) -> None:
        if i == n:
            raise OSError(code, os.strerror(code))

    return fail


def killing(n: int) -> Any:
    """kill -9 at the n-th call."""

    def fail(i: int, name: str) -> None:
        if i == n:
            os.kill(os.getpid(), signal.SIGKILL)

    return fail
