"""Bad input: one line that says what is wrong and what to do, status 2, no traceback, nothing touched."""

from __future__ import annotations

import errno
import gzip
import os
import resource
import subprocess
import sys

import pytest

from pymoe.cli.main import main
from pymoe.io import atomic
from tests.cli.runs import SMALL, environment
from tests.io.faults import Faulty, raising

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 12


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The bytes of a checkpoint of a small finished run."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text").write_text(TEXT)
    options = ["--steps", "3", "--batch", "2", "--window", "8", "--data", str(folder / "text")]
    assert main(["train", *SMALL, *options, "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(capsys, *args: str) -> str:
    """Run the command; it must say exactly one line on stderr and end with status 2."""
    capsys.readouterr()
    try:
        code = main(list(args))
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    assert err.startswith("pymoe: error: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err


DATA = {
    "no such file": (None, "no such file: check the path"),
    "a folder": ("folder", "is a folder: give one text file"),
    "empty": (b"", "is empty: give a file with text"),
    "empty gzip": (gzip.compress(b""), "is empty"),
    "binary": (b"abc\0def" * 99, "is binary (a NUL at byte 3): give a text file"),
    "latin 1": ("caf\u00e9 ".encode("latin-1") * 99, "is not UTF-8 (byte 3 is 0xe9): convert it"),
    "UTF-16": ("text".encode("utf-16") * 99, "is UTF-16: convert it with `iconv -f UTF-16"),
    "short": (b"short text", "is too short: of its 10 tokens"),
    "gzip cut short": (gzip.compress(os.urandom(3000))[:-99], "is a damaged gzip file"),
    "gzip flipped": (gzip.compress(b"abc" * 999)[:-6] + b"123456", "is a damaged gzip file"),
}


@pytest.mark.parametrize("case", DATA)
def test_a_text_that_cannot_be_used(case, here, capsys):
    content, message = DATA[case]
    if content == "folder":
        (here / "data").mkdir()
    elif content is not None:
        (here / "data").write_bytes(content)
    assert message in refuse(capsys, "train", "--data", "data")
    assert not (here / "runs").exists()  # no run was begun


def test_a_fifo_is_refused_instead_of_waited_for(here, capsys):
    os.mkfifo("data")
    assert "not a regular file" in refuse(capsys, "train", "--data", "data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_text_without_permission(here, capsys):
    (here / "data").write_text(TEXT)
    os.chmod("data", 0)
    assert "Permission denied" in refuse(capsys, "train", "--data", "data")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--foo"], "unknown option or argument: --foo"),
        (["train", "--foo"], "unknown option or argument: --foo (see `pymoe train --help`)"),
        (["train", "--st", "3"], "unknown option"),
        (["trane"], "invalid choice: 'trane'"),
        (["train", "--steps", "many"], "invalid int value: 'many'"),
        (["train", "--steps", "0"], "error: --steps must be a positive integer"),
        (["train", "--steps", "-5"], "--steps must be a positive integer"),
        (["train", "--lr", "-1"], "--lr must be a finite number and not negative"),
        (["train", "--lr", "nan"], "--lr must be a finite number and not negative"),
        (["train", "--batch", "0"], "error: --batch must be a positive integer, got 0"),
        (["train", "--save-every", "-1"], "error: --save-every must be"),
        (["train", "--window", "0"], "--window must be a positive integer"),
        (["train", "--window", "99999999"], "is too short"),
        (
            ["train", "--micro-batches", "7"],
            "--micro-batches must divide --batch, the windows of a step, into",
        ),
        (["train", "--seed", "-1"], "--seed must be a finite number and not negative"),
        (["train", "--preset", "huge"], "--preset must be one of default, shakespeare, tiny"),
        (["train", "--optimizer", "magic"], "invalid choice: 'magic'"),
        (["train", "--resume", "nothing"], "does not exist; give the folder of a run"),
        (["generate"], "generate needs RUN, a run folder or a checkpoint file, or --hf DIR"),
        (["generate", "nothing"], "no such run or checkpoint"),
        (["verify", "nothing"], "no such run or checkpoint"),
        (["verify"], "give a run folder or a checkpoint"),
        (["verify", "x", "--mutate"], "--mutate takes no run"),
    ],
)
def test_options_that_make_no_sense(args, message, here, capsys):
    assert message in refuse(capsys, *args)
    assert list(here.iterdir()) == []


def test_folders_that_are_no_run(here, capsys):
    (here / "empty").mkdir()
    (here / "file").write_text("x")
    assert "holds no checkpoint.safetensors" in refuse(capsys, "train", "--resume", "empty")
    assert "is a file" in refuse(capsys, "train", "--resume", "file")
    assert "holds no checkpoint.safetensors" in refuse(capsys, "generate", "empty")
    assert "not a safetensors file" in refuse(capsys, "generate", "file")
    assert "not empty" in refuse(capsys, "train", *SMALL, "--out", ".")


DAMAGE = {
    "cut short": lambda d: d[:-1],
    "cut in half": lambda d: d[: len(d) // 2],
    "cut in the header": lambda d: d[:100],
    "empty": lambda d: b"",
    "one bit of the length": lambda d: bytes([d[0] ^ 1]) + d[1:],
    "one bit of the header": lambda d: d[:200] + bytes([d[200] ^ 4]) + d[201:],
    "one bit of the middle": lambda d: d[: len(d) // 2] + bytes([d[len(d) // 2] ^ 128]) + d[len(d) // 2 + 1 :],
    "the last bit": lambda d: d[:-1] + bytes([d[-1] ^ 1]),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_checkpoint(case, trained, here, capsys):
    data = (trained / "run" / "checkpoint.safetensors").read_bytes()
    (here / "run").mkdir()
    (here / "run" / "checkpoint.safetensors").write_bytes(DAMAGE[case](data))
    for args in (["generate", "run"], ["verify", "run"], ["train", "--resume", "run"]):
        message = refuse(capsys, *args)
        assert "checkpoint.safetensors" in message and "use another copy" in message
    assert sorted(os.listdir("run")) == ["checkpoint.safetensors"]
    assert (here / "run" / "checkpoint.safetensors").read_bytes() == DAMAGE[case](data)


def test_control_the_checkpoint_itself_is_good(trained, capsys):
    assert main(["generate", str(trained / "run"), "--tokens", "3"]) == 0


@pytest.mark.slow
def test_any_flipped_bit_of_a_real_checkpoint(trained, here, capsys):
    import numpy as np

    data = (trained / "run" / "checkpoint.safetensors").read_bytes()
    rng = np.random.default_rng(0)
    for i in [*range(0, 4000, 7), *rng.integers(0, len(data), 1500).tolist()]:
        damaged = bytearray(data)
        damaged[i] ^= 1 << int(rng.integers(8))
        (here / "c").write_bytes(damaged)
        refuse(capsys, "generate", "c", "--tokens", "1")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prompt", ""], "--prompt must not be empty"),
        (["--prompt", "\u4e2d"], "the character '\u4e2d' at position 0 is not among"),
        (["--temperature", "-1"], "error: --temperature must be"),
        (["--temperature", "nan"], "--temperature must be"),
        (["--top-k", "0"], "error: --top-k must be an integer"),
        (["--top-p", "2"], "error: --top-p must lie in (0, 1], got 2"),
        (["--tokens", "-1"], "--tokens must not be negative"),
        (["--seed", "-1"], "--seed must not be negative"),
    ],
)
def test_samples_that_make_no_sense(args, message, trained, capsys):
    assert message in refuse(capsys, "generate", str(trained / "run"), *args)


def test_a_refused_prompt_is_not_printed(trained, capsys):
    capsys.readouterr()
    assert main(["generate", str(trained / "run"), "--prompt", "a\u4e2d"]) == 2
    assert capsys.readouterr().out == ""


def test_resume_refuses_other_settings_and_another_text(trained, here, capsys):
    run = str(trained / "run")
    assert "leave out --lr" in refuse(capsys, "train", "--resume", run, "--lr", "0.1")
    assert "leave out --compare-dense" in refuse(capsys, "train", "--resume", run, "--compare-dense")
    (here / "other").write_text(TEXT + "dog")
    assert "is not the text that" in refuse(capsys, "train", "--resume", run, "--data", "other")
    (here / "same").write_text(TEXT)
    assert main(["train", "--resume", run, "--data", "same", "--no-plots", "--no-verify"]) == 0


MANY = [pytest.param(n, marks=pytest.mark.slow) for n in (-4, -3, 1, 12, 44)]


@pytest.mark.parametrize("after", [-5, 0, 3, 26, *MANY])
def test_a_full_disk_while_training(after, here, capsys, monkeypatch):
    """The ``after``-th call of the system after the run's first checkpoint fails (up to 0: one of the first itself)."""
    earlier = [*SMALL, "--steps", "6", "--save-every", "2", "--batch", "2"]
    assert main(["train", *earlier]) == 0
    before = {p: p.read_bytes() for p in (here / "runs").rglob("*") if p.is_file()}
    first_save = 6  # open, write, fsync, rename, open and fsync of the folder
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "os", Faulty(raising(first_save + after, errno.ENOSPC)))
        message = refuse(capsys, "train", *earlier)
    assert "the disk is full" in message and "free some space" in message
    assert all(path.read_bytes() == content for path, content in before.items())
    if after > 0:
        assert "continue with `pymoe train --resume runs/tiny-2`" in message
        assert main(["train", "--resume", "runs/tiny-2", "--no-plots", "--no-verify"]) == 0
        for name in ("checkpoint.safetensors", "metrics.jsonl"):
            assert (here / "runs" / "tiny-2" / name).read_bytes() == before[here / "runs" / "tiny-1" / name]
    else:
        assert os.listdir("runs") == ["tiny-1"]


def test_a_file_system_that_really_refuses(here):
    """The kernel itself fails the writes: no file may grow beyond 20 kB (the checkpoint has 100)."""
    done = subprocess.run(
        [sys.executable, "-m", "pymoe", "train", *SMALL, "--steps", "3"],
        env=environment(), capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "the disk is full" in done.stderr
    assert [p for p in here.rglob("*") if p.is_file()] == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("args", [["info"], ["--version"]])
def test_an_output_that_is_full(args):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pymoe", *args], env=environment(), stdout=full, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "No space left" in done.stderr, done.stderr


def test_a_reader_that_has_enough(trained):
    process = subprocess.Popen(
        [sys.executable, "-m", "pymoe", "generate", str(trained / "run"), "--tokens", "5000"],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(20)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 141
