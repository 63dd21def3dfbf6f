"""``pymoe classify`` as a user types it: a table of one's own, train, read the report, predict."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pymoe.cli.main import main
from tests.cli.runs import call, environment

WORDS = {
    "Küche": "Suppe, Brot; Käse 汤 面包 🍞 warm lecker".split(),
    "Reise": 'Zug "Bahnhof" Straße 火车 路 🚆 weit schnell'.split(),
    "Sport": "Ball Tor\nNetz 球 比赛 ⚽ rund hoch".split(" "),
}


def rows(n: int = 60, seed: int = 0) -> list[tuple[str, str, str]]:
    rng = random.Random(seed)
    found = []
    for i in range(n):
        label = list(WORDS)[i % 3]
        found.append((f"Nr {i}: " + " ".join(rng.choices(WORDS[label], k=4)), label, "sonst" if i % 5 else "laut"))
    return found


def write(path: Path, delimiter: str = ",", head=("Kommentar", "Thema", "Ort"), n: int = 60) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([head, *rows(n)])
    return path


FAST = ["--method", "ensemble", "--experts", "2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("made")
    write(place / "a.csv", ";")
    assert main(["classify", "train", str(place / "a.csv"), *FAST, "--out", str(place / "model")]) == 0
    return place


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_table_of_ones_own_from_start_to_end(here):
    """In a shell: every command that is printed as the next one works."""
    write(here / "meine.csv", ";")
    code, out, err = call("classify", "train", "meine.csv")
    assert (code, err) == (0, "")
    for line in (
        "fields between semicolons",
        "text is the column 'Kommentar': its fields are the longest",
        "label is the column 'Ort': its 60 rows have 2 different values",
    ):
        assert line in out
    code, out, err = call("classify", "train", "meine.csv", "--label", "Thema", "--seed", "3")
    assert (code, err) == (0, "")
    assert "60 rows, 3 classes: Küche 20, Reise 20, Sport 20" in out
    scores = {line.split("  ")[1]: float(line.split()[-4 if " s" in line else -2]) for line in out.splitlines()
              if line.startswith(("  moe", "  dense twin", "  always 'Küche'"))}  # fmt: skip
    assert len(scores) == 3 and scores["moe"] >= 0.9 and scores["always 'Küche'"] == 0.3333
    follow = [line.removeprefix("next: ") for line in out.splitlines() if line.startswith("next: ")]
    assert len(follow) == 2
    for command in follow:
        ready = command.replace("pymoe classify", f"{sys.executable} -m pymoe classify")
        done = subprocess.run(ready, shell=True, env=environment(), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done
    assert "experts" in done.stdout.splitlines()[0] and done.stdout.splitlines()[1].split("\t")[0] in WORDS
    held = sorted(os.listdir(here / "runs" / "classify-2"))
    assert held == ["held_out.jsonl", "model.json", "model.safetensors", "report"]
    assert sorted(os.listdir(here / "runs" / "classify-2" / "report")) == [
        "confusion.png",
        "experts.png",
        "report.html",
    ]


def test_predictions_in_every_form(made, here, capsys):
    model = str(made / "model")
    write(here / "new.tsv", "\t", n=9)
    for form, delimiter in {"csv": ",", "tsv": "\t"}.items():
        capsys.readouterr()
        assert main(["classify", "predict", model, "new.tsv", "--to", form, "--all"]) == 0
        table = list(csv.DictReader(io.StringIO(capsys.readouterr().out), delimiter=delimiter))
        assert [row["text"] for row in table] == [text for text, _, _ in rows(9)]
        assert table[0].keys() == {"label", "probability", *(f"p({c})" for c in ("laut", "sonst")), "text"}
        assert all(abs(float(r["p(laut)"]) + float(r["p(sonst)"]) - 1) < 2e-4 for r in table)
    assert main(["classify", "predict", model, "new.tsv", "--to", "jsonl", "--route", "--out", "out.jsonl"]) == 0
    lines = [json.loads(line) for line in (here / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 9 and all(abs(sum(row["experts"].values()) - 1) < 1e-3 for row in lines)


def test_standard_input_is_answered_line_by_line(made):
    """The answer to a line is there before the next line is written."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pymoe", "classify", "predict", str(made / "model"), "--no-text"],
        env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    for i, line in enumerate(["Suppe und Brot", "今天吃面包", "", "x" * 50]):
        process.stdin.write(line.encode() + b"\r\n")
        process.stdin.flush()
        if i == 0:
            assert process.stdout.readline() == b"label\tprobability\n"
        assert process.stdout.readline().split(b"\t")[0] in (b"laut", b"sonst")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"", b"")


def test_plain_lines_json_and_a_pipe_of_many(made, here):
    model = str(made / "model")
    (here / "a.txt").write_text("Suppe\n\nZug, Zug\n", encoding="utf-8")
    code, out, err = call("classify", "predict", model, "a.txt", "--no-text")
    assert (code, err, out.count("\n")) == (0, "", 4)
    piped = "\n".join(f"Suppe {i}" for i in range(1000))
    for text, lines in {piped: 1001, '{"text": "Suppe"}\n\n{"text": "Zug", "id": 3}': 3}.items():
        done = subprocess.run(
            [sys.executable, "-m", "pymoe", "classify", "predict", model],
            env=environment(), input=text, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout.count("\n")) == (0, lines), done.stderr


def test_a_table_in_a_pipe_is_told_from_lines(made):
    for args, lines, said in (([], 3, "line 1 looks like the header of a table"), (["--format", "csv"], 2, "")):
        done = subprocess.run(
            [sys.executable, "-m", "pymoe", "classify", "predict", str(made / "model"), *args],
            env=environment(), input='Ort,Kommentar\nlaut,"Suppe, Brot"\n', capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout.count("\n")) == (0, lines) and said in done.stderr, done
        assert bool(said) == bool(done.stderr)


def test_the_same_seed_is_the_same_model(made, here, capsys):
    assert main(["classify", "train", str(made / "a.csv"), *FAST, "--out", "again"]) == 0
    for name in ("model.safetensors", "held_out.jsonl"):
        assert (here / "again" / name).read_bytes() == (made / "model" / name).read_bytes()


def test_a_report_on_another_table_and_the_held_out_rows(made, here, capsys):
    write(here / "b.csv", n=12)
    capsys.readouterr()
    assert main(["classify", "report", str(made / "model"), "b.csv", "--out", "r", "--no-plots"]) == 0
    out = capsys.readouterr().out
    assert "12 texts, b.csv" in out and os.listdir("r") == ["report.html"]
    assert "  dense twin " in out and "always 'sonst'" in out and "it is the table" not in out
    html = Path("r/report.html").read_text(encoding="utf-8")
    assert "laut" in html and "sonst" in html and '<th scope="row">dense twin</th>' in html
    assert main(["classify", "report", str(made / "model"), str(made / "a.csv"), "--no-plots"]) == 0
    assert "note: it is the table that the model learned from" in capsys.readouterr().out
    assert main(["classify", "report", str(made / "model"), "--out", "r2"]) == 0
    out = capsys.readouterr().out
    assert "dense twin" in out and sorted(os.listdir("r2"))[0] == "confusion.png"


def test_groups_their_scores_and_their_experts(here, capsys):
    write(here / "a.csv")
    options = ["--label", "Thema", "--group", "Ort", "--method", "ensemble", "--out", "m"]
    assert main(["classify", "train", "a.csv", *options]) == 0
    assert main(["classify", "report", "m", "a.csv", "--no-plots"]) == 0
    out = capsys.readouterr().out
    assert "\n  laut " in out and "\n  sonst " in out and "expert" in out
    capsys.readouterr()
    assert main(["classify", "predict", "m", "a.csv", "--to", "jsonl", "--route"]) == 0
    first, second, *_ = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert first["experts"] == {"laut": 1.0} and second["experts"] == {"sonst": 1.0}


def test_a_test_table_and_no_held_out_rows(here, capsys):
    write(here / "a.csv")
    write(here / "b.csv", n=15)
    assert main(["classify", "train", "a.csv", *FAST, "--label", "Thema", "--test", "b.csv", "--out", "m"]) == 0
    assert "15 of 15 held-out texts stand among the learned ones" in capsys.readouterr().out
    assert main(["classify", "train", "a.csv", *FAST, "--label", "Thema", "--test-share", "0", "--out", "n"]) == 0
    assert "nothing was held out" in capsys.readouterr().out
    assert os.listdir("n").count("held_out.jsonl") == 0
    assert main(["classify", "report", "n", "b.csv", "--no-plots"]) == 0
    assert "  dense twin " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["sentiment"])
def test_built_in_data(name, here, capsys):
    assert main(["classify", "train", "--data", name, *FAST]) == 0
    out = capsys.readouterr().out
    assert "hand-written" in out and "420 rows, 3 classes" in out


def test_one_row_in_a_class_and_the_words_that_are_left_out(here, capsys):
    with open(write(here / "a.csv"), "a", encoding="utf-8") as file:
        file.write("ganz allein,Einzel,laut\n")
    options = [*FAST, "--label", "Thema", "--stop-words", "de,zh", "--max-features", "50", "--tokens", "words"]
    assert main(["classify", "train", "a.csv", *options]) == 0
    assert "one class has one row only ('Einzel'): it is learned from" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_leaves_no_folder(here):
    process = subprocess.Popen(
        [sys.executable, "-m", "pymoe", "classify", "train"],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    while "training the sparse network" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "pymoe: stopped\n"
    assert [p for p in here.rglob("*") if p.name.startswith("classify")] == []
