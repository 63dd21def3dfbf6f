"""Runs of the command as a user starts it: another process, one thread, a small model."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--preset", "tiny", "--no-plots", "--no-verify"]


def environment() -> dict[str, str]:
    one = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **one}


def start(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pymoe", *args],
        env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def call(*args: str) -> tuple[int, str, str]:
    process = start(*args)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def wait_for_lines(process: subprocess.Popen[str], path: Path, n: int) -> None:
    """Until ``path`` has n lines, or the process has ended."""
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if path.exists() and path.read_bytes().count(b"\n") >= n:
            return
        time.sleep(0.002)


def state(folder: Path) -> dict[str, bytes]:
    names = ["checkpoint.safetensors", "metrics.jsonl", "learned.txt"]
    names += [os.path.join("dense", name) for name in names[:2]]
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}
