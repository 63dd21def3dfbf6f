"""The folder of a run: new for every run, locked while it is used, never shared, never overwritten."""

from __future__ import annotations

import errno
import os
from types import TracebackType

from pymoe.backend.errors import ConfigError
from pymoe.io import atomic


class Run:
    """A locked folder.  The system lets go of the lock when the process ends, however it ends."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._lock = _lock(folder)
        atomic.sweep(folder)

    def path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    @property
    def checkpoint(self) -> str:
        return self.path("checkpoint.safetensors")

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def create(name: str, out: str | None = None) -> Run:
    """``out``, which must not exist or be empty; or runs/<name>-<n> with the first n that is free."""
    if out is not None:
        try:
            os.makedirs(out, exist_ok=True)
            used = bool(os.listdir(out))
        except (FileExistsError, NotADirectoryError):
            raise ConfigError(f"{out} is a file: give a new folder with --out") from None
        if used:
            raise ConfigError(f"{out} is not empty: give a new folder with --out, or continue it with --resume {out}")
        return Run(out)
    os.makedirs("runs", exist_ok=True)
    n = 1
    while True:  # mkdir is atomic: two processes cannot get the same folder
        folder = os.path.join("runs", f"{name}-{n}")
        try:
            os.mkdir(folder)
        except FileExistsError:
            n += 1
        else:
            return Run(folder)


def _lock(folder: str) -> int:
    try:
        import fcntl
    except ImportError:  # Windows: no advisory lock on a folder
        return -1
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise ConfigError(f"{folder} is in use by another process: wait for it, or stop it first") from None
        return -1  # a file system without locks
    return descriptor
