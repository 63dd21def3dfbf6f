"""What is wrong with a table, a model or an option: one line that says what to do, status 2, nothing lost."""

from __future__ import annotations

import errno
import io
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pymoe.cli.main import main
from pymoe.io import atomic
from tests.cli.runs import environment
from tests.io.faults import Faulty, raising

GOOD = "text,label\n" + "".join(f"number {i} {w},{w[0]}\n" for i in range(15) for w in ("apple pie", "big boat"))
FAST = ["--method", "ensemble", "--experts", "2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("made")
    (place / "a.csv").write_text(GOOD)
    assert main(["classify", "train", str(place / "a.csv"), *FAST, "--out", str(place / "model")]) == 0
    return place


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text(GOOD)
    return tmp_path


def refuse(capsys, *args: str) -> str:
    capsys.readouterr()
    try:
        code = main(["classify", *args])
    except SystemExit as stop:
        code = stop.code
    _, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("pymoe: note: ")]
    assert code == 2 and len(lines) == 1 and lines[0].startswith("pymoe: error: "), err
    return lines[0]


TABLES = {
    "empty": (b"", "is empty: give a table"),
    "a header only": (b"text,label\n", "has a header and no rows"),
    "one class": (b"text,label\na b,x\nc d,x\n", "every row has the label 'x' (rows: 2), and a classifier needs two"),
    "classes of one row": (b"text,label\na b,x\nc d,y\n", "each of the 2 rows has a label of its own"),
    "no label": (b"text,id\n" + b"".join(b"a %d,%d\n" % (i, i) for i in range(99)), "no column looks like a label"),
    "one column": (b"text\na\nb\n", "has one column"),
    "latin-1": (
        b"text,label\ncaf\xe9,x\nb,y\n",
        "is not UTF-8 (byte 14, in line 2, is 0xe9): its bytes look like latin-1, so say --enc",
    ),
    "UTF-16": (GOOD.encode("utf-16"), "say --encoding utf-16"),
    "UTF-16 without a mark": (GOOD.encode("utf-16-le"), "say --encoding utf-16-le"),
    "GBK": (GOOD.replace("apple", "今天天气很好").encode("gbk"), "look like gb18030, so say --encoding gb18030"),
    "a spreadsheet": (b"PK\x03\x04" + bytes(99), "a zip archive, as .xlsx, .docx and .ods files are"),
    "a NUL": (b"text,label\na\0,x\n", "line 2 has a NUL character"),
    "ragged": (GOOD.encode() + b"a,b,c\n", "line 32 has 3 fields, the first line has 2"),
    "two of a name": (b"text,text\na b,x\nc d,y\n", "more than one column named 'text'"),
    "1 MB": (GOOD.encode() + b"z" * 1_000_000 + b",b\n", "line 32 has a field of 1,000,000 characters"),
    "an open quote": (GOOD.encode() + b'"never closed,a\nb,a\n,,,,\n', "line 32: a quote is opened and never closed"),
    "nothing but markup": (b"text,label\n" + b"<br>,x\n<p></p>,y\n" * 9, "has a token left after cleaning"),
    "binary": (bytes(range(1, 256)) * 9, "is not UTF-8"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_cannot_be_learned_from(case, here, capsys):
    content, message = TABLES[case]
    (here / "bad.csv").write_bytes(content)
    assert message in refuse(capsys, "train", "bad.csv", *FAST)
    assert not any((here / "runs").glob("*")) if (here / "runs").exists() else True


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "none.csv"], "none.csv: no such file"),
        (["train", "."], "is a folder: give one file"),
        (["train", "a.csv", "b.csv"], "give one file, got 2"),
        (["train", "a.csv", "--text", "review"], "has no column 'review': --text must be one of 'text', 'label'"),
        (["train", "a.csv", "--label", "Label"], "did you mean 'label'?"),
        (["train", "a.csv", "--label", "text", "--text", "text"], "are the same column"),
        (["train", "a.csv", "--group", "dom"], "has no column 'dom'"),
        (["train", "a.csv", "--method", "magic"], "--method must be one of moe, ensemble, dense"),
        (["train", "a.csv", "--experts", "0"], "--experts must be an integer of at least 1"),
        (["train", "a.csv", "--experts", "2", "--k", "3"], "--k must be at most the number of --experts, 2, got 3"),
        (["train", "a.csv", "--k", "9"], "--k must be at most the number of --experts, 4, got 9"),
        (["train", "a.csv", "--k", "9", *FAST], "--k must be at most the number of --experts"),
        (["train", "a.csv", "--experts", "many"], "invalid int value"),
        (["train", "a.csv", "--test-share", "1"], "--test-share must lie in [0, 1)"),
        (["train", "a.csv", "--seed", "-1"], "--seed must be an integer of at least 0"),
        (["train", "a.csv", "--method", "ensemble", "--subsets", "group"], "name it with --group"),
        (["train", "a.csv", "--subsets", "label"], "does not look at --subsets"),
        (["train", "a.csv", *FAST, "--integration", "magic"], "--integration must be one of"),
        (["train", "a.csv", "--tokens", "syllables"], "--tokens must be one of"),
        (["train", "a.csv", "--stop-words", "klingon"], "klingon"),
        (["train", "a.csv", "--encoding", "klingon"], "--encoding 'klingon' is not known"),
        (["train", "a.csv", "--format", "xlsx"], "--format must be one of csv, tsv, jsonl, lines"),
        (["train", "a.csv", "--data", "languages"], "leave it out, or give no FILE"),
        (["train", "--data", "news"], "--data must be one of languages, docstrings, sentiment"),
        (["train", "--text", "x"], "--text belongs to a FILE"),
        (["train", "a.csv", "--out", "a.csv"], "a.csv is a file: give a new folder"),
        (["train", "a.csv", "--lable", "x"], "unknown option or argument: --lable"),
        (["train", "a.csv", "--test", "none.csv"], "none.csv: no such file"),
        (["train", "a.csv", "--longest", "0"], "--longest must be an integer of at least 1"),
        ([], "required: train | predict | report"),
        (["learn"], "invalid choice: 'learn'"),
        (["predict"], "required: MODEL"),
        (["predict", "none"], "none: no such model folder"),
        (["predict", "a.csv"], "a.csv: is a file, not a model folder"),
        (["predict", "."], "holds no model.json, so it is not a model"),
        (["report", "none"], "none: no such model folder"),
    ],
)
def test_options_that_make_no_sense(args, message, here, capsys):
    assert message in refuse(capsys, *args)
    assert sorted(os.listdir(here)) in (["a.csv"], ["a.csv", "runs"]) and not list(here.glob("runs/*"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["predict", "model", "none.csv"], "none.csv: no such file"),
        (["predict", "model", "a.csv", "--text", "x"], "has no column 'x'"),
        (["predict", "model", "a.csv", "--to", "xml"], "--to must be one of tsv, csv, jsonl"),
        (["predict", "model", "a.csv", "--out", "a.csv"], "a.csv exists, and nothing is overwritten"),
        (["report", "model", "a.csv", "--out", "model"], "model is not empty, and nothing is overwritten"),
        (["report", "model", "a.csv", "--errors", "-1"], "--errors must be an integer of at least 0"),
        (["train", "a.csv", "--out", "model"], "model is not empty, and no model is overwritten"),
    ],
)
def test_a_model_is_there_and_the_rest_is_wrong(args, message, made, here, capsys):
    shutil.copytree(made / "model", "model")
    before = {p.name: p.read_bytes() for p in Path("model").iterdir()}
    assert message in refuse(capsys, *args)
    assert {p.name: p.read_bytes() for p in Path("model").iterdir()} == before


def test_labels_that_were_never_seen(made, here, capsys):
    (here / "new.csv").write_text("text,label\nan apple,a\na cart,c\nb,b\n")
    model = str(made / "model")
    assert "rows with a label that was not learned: 1 of 3, 'c' (first: line 3" in refuse(
        capsys, "report", model, "new.csv"
    )
    assert main(["classify", "report", model, "new.csv", "--skip-bad", "--out", "r", "--no-plots"]) == 0
    assert "left out 1 row with a label that was not learned: 'c'" in capsys.readouterr().out
    assert "was not learned: 1 of 3, 'c'" in refuse(capsys, "train", "a.csv", *FAST, "--test", "new.csv")
    assert main(["classify", "predict", model, "new.csv"]) == 0  # labels are not looked at


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "held_out.jsonl"])
def test_a_model_folder_cut_short(name, made, here, capsys):
    shutil.copytree(made / "model", "model")
    data = Path("model", name).read_bytes()
    for length in sorted({0, 1, 8, 99, len(data) // 2, len(data) - 1}):
        Path("model", name).write_bytes(data[:length])
        assert name in refuse(capsys, "report", "model")
        if name != "held_out.jsonl":
            assert "cut short" in refuse(capsys, "predict", "model", "a.csv")
    Path("model", name).unlink()
    assert name in refuse(capsys, "report", "model")
    Path("model", name).write_bytes(data)
    assert main(["classify", "report", "model", "--no-plots"]) == 0


def test_a_folder_of_another_model(here, capsys):
    from pymoe.pipeline import Reduce, folder

    folder.save("other", {"reduce": Reduce("svd", 1).fit([[1.0, 2.0], [3.0, 4.0]])})
    assert "other is no classifier: give the folder that `pymoe classify train` made" in refuse(
        capsys, "predict", "other"
    )


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 18])
def test_a_full_disk(call, made, here, capsys, monkeypatch):
    """The ``call``-th call of the system fails, of 18 for the three files; an earlier model stays as it was."""
    shutil.copytree(made / "model", "runs/classify-1")
    before = {p: p.read_bytes() for p in (here / "runs").rglob("*") if p.is_file()}
    faulty = Faulty(raising(call, errno.ENOSPC))
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "os", faulty)
        message = refuse(capsys, "train", "a.csv", *FAST)
    assert "the disk is full" in message and "free some space" in message
    assert {p: p.read_bytes() for p in (here / "runs").rglob("*") if p.is_file()} == before
    assert os.listdir("runs") == ["classify-1"]


def test_a_report_on_a_full_disk(made, here, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "os", Faulty(raising(9, errno.ENOSPC)))
        assert "the disk is full" in refuse(capsys, "report", str(made / "model"), "--out", "r")
    assert not Path("r").exists()


def test_a_file_system_that_really_refuses(here):
    done = subprocess.run(
        [sys.executable, "-m", "pymoe", "classify", "train", "a.csv", *FAST],
        env=environment(), capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000)),
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "the disk is full" in done.stderr, done.stderr
    assert sorted(p.name for p in here.rglob("*") if p.is_file()) == ["a.csv"]


@pytest.mark.parametrize(
    ("raw", "args", "message"),
    [
        (b"", [], "standard input is empty: pipe texts in"),
        (b"fine\ncaf\xe9\n", [], "standard input is not UTF-8 (byte 3, in line 2, is 0xe9)"),
        (b"a\0b\n", [], "line 1 has a NUL character"),
        (b'{"text": "a"}\n{"text": \n', [], "line 2 is no JSON"),
        (b'{"text": "a"}\n{"body": "b"}\n', [], "line 2 has no 'text', where the text stood before"),
        (b"plain\n", ["--format", "jsonl"], "line 1 is no JSON"),
        (b"a,b\n1,2,3\n", ["--format", "csv"], "line 2 has 3 fields"),
    ],
)
def test_standard_input_that_cannot_be_read(raw, args, message, made, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(raw)), encoding="utf-8"))
    assert message in refuse(capsys, "predict", str(made / "model"), *args)


def test_a_line_of_1_mb_is_answered_and_noted(made):
    done = subprocess.run(
        [sys.executable, "-m", "pymoe", "classify", "predict", str(made / "model"), "--no-text"],
        env=environment(), input=f"apple\n{'boat ' * 200_000}\napple\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.count("\n") == 4
    assert done.stderr.startswith("pymoe: note: line 2 has 1,000,000 characters: only the first 100,000")


def test_a_reader_that_has_enough(made):
    process = subprocess.Popen(
        [sys.executable, "-m", "pymoe", "classify", "predict", str(made / "model")],
        env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(b"apple\n")
    process.stdin.flush()
    process.stdout.readline()
    process.stdout.close()
    process.stdin.write(b"boat\n" * 9)
    process.stdin.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 141
