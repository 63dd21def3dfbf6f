"""``metrics.jsonl``: one JSON object a line, appended as training goes, cut back to the checkpoint's step on resume."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from pymoe.backend.errors import CheckpointError
from pymoe.io import atomic


class Records:
    """An append-only file of records, each with a "step".  One ``os.write`` a record, so a kill tears at most the last.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = Records(folder + "/metrics.jsonl", keep_to=-1)
    ...     log.append({"step": 1, "loss": 2.5}); log.append({"step": 2, "loss": 2.25}); log.close()
    ...     Records(folder + "/metrics.jsonl", keep_to=1).close()
    ...     list(read(folder + "/metrics.jsonl"))
    [{'step': 1, 'loss': 2.5}]
    """

    def __init__(self, path: str, keep_to: int) -> None:
        """Open ``path``; drop every record of a step after ``keep_to`` (-1: all) and a torn last line."""
        lines = [line for line in _lines(path) if json.loads(line)["step"] <= keep_to] if os.path.exists(path) else []
        atomic.write(path, [b"".join(lines)])
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)

    def append(self, record: dict[str, Any]) -> None:
        atomic.write_all(self._descriptor, json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def sync(self) -> None:
        """Before a checkpoint is written: the records up to its step must not be lost when the checkpoint is not."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read(path: str) -> Iterator[dict[str, Any]]:
    """All complete records of a file."""
    for line in _lines(path):
        yield json.loads(line)


def _lines(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # torn by a kill: its step is after the checkpoint, or will be written again
            try:
                valid = isinstance(json.loads(line)["step"], int)
            except (ValueError, TypeError, KeyError):
                valid = False
            if not valid:
                raise CheckpointError(f"{path}: line {number} is not a record with a step: the file was changed")
            yield line
