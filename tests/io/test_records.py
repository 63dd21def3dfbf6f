"""metrics.jsonl: what is after the checkpoint goes, what is before stays, byte by byte."""

from __future__ import annotations

import pytest

from pymoe.backend.errors import CheckpointError
from pymoe.io.records import Records, read


def write(path, steps):
    log = Records(str(path), keep_to=-1)
    for s in steps:
        log.append({"step": s, "loss": 1 / (s + 3)})
    log.close()
    return path.read_bytes()


def test_resume_cuts_back_and_continues_to_the_same_bytes(tmp_path):
    whole = write(tmp_path / "a", range(1, 9))
    write(tmp_path / "b", range(1, 7))
    log = Records(str(tmp_path / "b"), keep_to=4)
    assert [r["step"] for r in read(str(tmp_path / "b"))] == [1, 2, 3, 4]
    for s in range(5, 9):
        log.append({"step": s, "loss": 1 / (s + 3)})
    log.close()
    assert (tmp_path / "b").read_bytes() == whole


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_torn_last_line_is_dropped(tmp_path, cut):
    whole = write(tmp_path / "a", range(1, 4))
    (tmp_path / "a").write_bytes(whole[:-cut])
    Records(str(tmp_path / "a"), keep_to=9).close()
    assert [r["step"] for r in read(str(tmp_path / "a"))] == [1, 2]


@pytest.mark.parametrize("line", [b"{}\n", b"[]\n", b'{"step": "3"}\n', b"\xff\n", b"\n"])
def test_a_line_that_is_no_record_is_an_error(tmp_path, line):
    (tmp_path / "a").write_bytes(b'{"step": 1}\n' + line)
    with pytest.raises(CheckpointError, match="line 2"):
        Records(str(tmp_path / "a"), keep_to=9)
