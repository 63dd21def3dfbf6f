"""Whatever fails, and whenever: the old file or the new one, nothing else, and no rubbish."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from pymoe.io import atomic
from tests.io.faults import Faulty, raising

OLD, NEW = b"the old content", [b"the new ", memoryview(b"content "), b"is longer"]


def durable(calls: list[str]) -> bool:
    """Is this order safe against a power cut: bytes before the name, the name before the return?"""
    order = [c for c in calls if c != "open"]
    writes = [i for i, c in enumerate(order) if c == "write"]
    return bool(writes) and order[writes[-1] + 1 :] == ["fsync", "replace", "fsync folder"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_every_failing_call_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch, code):
    path = tmp_path / "file"
    for n in range(1, 99):
        path.write_bytes(OLD)
        faulty = Faulty(raising(n, code))
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "os", faulty)
            try:
                atomic.write(path, NEW)
            except OSError as error:
                assert error.errno == code and error.filename == str(path)
                renamed = "replace" in faulty.calls[:-1]
                assert path.read_bytes() == (b"".join(NEW) if renamed else OLD), faulty.calls
            else:
                break
        assert os.listdir(tmp_path) == ["file"], faulty.calls
    assert n == len(faulty.calls) + 1 == 9  # each of the 8 failed once: open, 3 writes, fsync, replace, open, fsync
    assert path.read_bytes() == b"".join(NEW)


def test_the_first_write_of_a_file_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "os", Faulty(raising(3, errno.ENOSPC)))
    with pytest.raises(OSError, match="No space left"):
        atomic.write(tmp_path / "file", NEW)
    assert os.listdir(tmp_path) == []


def test_a_keyboard_interrupt_inside_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(n, name):
        if n == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "os", Faulty(interrupt))
    with pytest.raises(KeyboardInterrupt):
        atomic.write(tmp_path / "file", NEW)
    assert os.listdir(tmp_path) == []


def test_short_writes_are_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "os", Faulty(most=3))
    atomic.write(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == b"".join(NEW)


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    faulty = Faulty()
    monkeypatch.setattr(atomic, "os", faulty)
    atomic.write(tmp_path / "file", NEW)
    assert durable(faulty.calls)


@pytest.mark.parametrize(
    "calls",
    [
        ["open", "write", "replace"],  # what safetensors, torch.save and np.savez do
        ["open", "write", "replace", "fsync", "open", "fsync folder"],
        ["open", "write", "fsync", "replace"],
        ["open", "fsync", "write", "replace", "open", "fsync folder"],
    ],
)
def test_control_an_unsafe_order_is_seen(calls):
    assert not durable(calls)


def test_kill_at_every_call_never_tears_the_file(tmp_path):
    path = tmp_path / "file"
    program = (
        "import sys\n"
        "from pymoe.io import atomic\n"
        "from tests.io.faults import Faulty, killing\n"
        "atomic.os = Faulty(killing(int(sys.argv[1])))\n"
        f"atomic.write({str(path)!r}, {[bytes(c) for c in NEW]!r})\n"
    )
    for n in range(1, 10):
        path.write_bytes(OLD)
        done = subprocess.run([sys.executable, "-c", program, str(n)], cwd=os.getcwd(), check=False).returncode
        assert path.read_bytes() == (OLD if n <= 6 else b"".join(NEW)), n
        assert done == (0 if n == 9 else -9), n
    stale = [name for name in os.listdir(tmp_path) if name != "file"]
    assert 0 < len(stale) <= 6
    assert atomic.sweep(tmp_path) == sorted(stale)
    assert os.listdir(tmp_path) == ["file"]


def test_sweep_touches_nothing_else(tmp_path):
    for name in (".file.12.tmp", "file.12.0a0b0c0d.tmp", ".hidden", "x.tmp", ".file.12.0a0b0c0.tmp"):
        (tmp_path / name).write_bytes(b"")
    assert atomic.sweep(tmp_path) == []


def test_permissions_are_those_of_any_new_file(tmp_path):
    atomic.write(tmp_path / "a", [b"x"])
    (tmp_path / "b").write_bytes(b"x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
