"""``pymoe translate``: what it prints and leaves behind, Ctrl-C and kill -9, and bad input in one line."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest

from pymoe.cli.main import main
from pymoe.pipeline.translation import evaluate
from pymoe.pipeline.translation.translator import Translator
from tests.cli.runs import call, start, wait_for_lines
from tests.pipeline.translation import small

QUICK = ["--preset", "tiny", "--no-plots", "--no-verify"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder with src, tgt (70 pairs), both.tsv, and test.src, test.tgt (8 pairs)."""
    folder = tmp_path_factory.mktemp("texts")
    for name, pairs in (("", small.text(70, 0)), ("test.", small.text(8, 1))):
        (folder / f"{name}src").write_text("\n".join(pairs.source) + "\n", encoding="utf-8")
        (folder / f"{name}tgt").write_text("\n".join(pairs.target) + "\n", encoding="utf-8")
        rows = [f"{s}\t{t}\n" for s, t in zip(pairs.source, pairs.target, strict=True)]
        (folder / f"{name}tsv").write_text("".join(rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(texts, tmp_path_factory):
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("runs") / "model"
    files = [str(texts / name) for name in ("src", "tgt")]
    test = [str(texts / name) for name in ("test.src", "test.tgt")]
    assert (
        main(["translate", "train", *files, "--test", *test, "--preset", "tiny", "--steps", "40", "--out", str(folder)])
        == 0
    )
    return folder


def output(capsys, *args: str) -> tuple[str, str]:
    capsys.readouterr()
    assert main(["translate", *args]) == 0
    return capsys.readouterr()


def test_training_says_what_it_does_and_leaves_a_model(texts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out, err = output(capsys, "train", str(texts / "tsv"), "--preset", "tiny", "--steps", "9", "--no-plots")
    assert err == ""
    for part in (
        str(texts / "tsv"), "sha256", "pairs to train on", "held out", "byte-level BPE",
        "sparse transformer: 1 + 1 layers (encoder + decoder)", "active for a token", "gradient verified",
        "step 9/9  held-out loss", "BLEU", "expert load max/mean", "to compare: dense transformer",
        "  sparse  loss", "  dense   loss", "chrF", "exact", "sacrebleu: nrefs:1", ": source, translation, reference",
        "pymoe translate runs/translate-1",
    ):  # fmt: skip
        assert part in out, part
    assert out.index("gradient verified") < out.index("held-out loss")
    names = {p.name for p in (tmp_path / "runs" / "translate-1").iterdir()}
    assert names == {"checkpoint.safetensors", "metrics.jsonl", "result.json", "translations.txt", "dense"}


def test_sparse_and_dense_stand_side_by_side(trained):
    result = json.loads((trained / "result.json").read_text())
    sparse, dense = result["sparse"], result["dense"]
    assert sparse["steps"] == dense["steps"] == 40
    assert 0 <= dense["active_parameters"] - sparse["active_parameters"] < 200
    assert sparse["parameters"] > dense["parameters"]
    assert sparse["tests"].keys() == {"test"} and sparse["tests"]["test"]["lines"] == 8
    lines = (trained / "translations.txt").read_text(encoding="utf-8").split("\n")
    assert len(lines) == 1 + 8 + 1 and all(line.count("\t") == 3 for line in lines[:-1])


def test_the_learning_curve_is_drawn(trained):
    image = pytest.importorskip("matplotlib.image")
    pixels = image.imread(trained / "learning.png")
    assert pixels.shape[0] > 300 and pixels.shape[1] > 900 and pixels.std() > 0.05


def test_lines_in_translations_out(trained, texts, capsys, monkeypatch):
    model = Translator.load(str(trained))
    source = (texts / "test.src").read_text(encoding="utf-8").splitlines()
    expected = "".join(line + "\n" for line in model.translate(source))
    assert output(capsys, str(trained), str(texts / "test.src")) == (expected, "")
    assert output(capsys, str(trained), "--beam", "2", str(texts / "test.src")) == (expected, "")  # its own width is 2
    for spelled in ([], ["-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(source).encode())))
        assert output(capsys, str(trained), *spelled) == (expected, "")
    greedy = "".join(line + "\n" for line in model.translate(source, width=1))
    assert output(capsys, str(trained), str(texts / "test.src"), "--beam", "1")[0] == greedy
    assert output(capsys, str(trained / "dense"), str(texts / "test.src"))[0].count("\n") == 8


def test_any_text_is_translated_line_for_line(trained, tmp_path, capsys):
    (tmp_path / "odd").write_text(
        "\n\u4eca\u5929\u5929\u6c14\u5f88\u597d\n  \n</s> \U0001f600\n" + "x" * 9000, encoding="utf-8"
    )
    out, err = output(capsys, str(trained), str(tmp_path / "odd"))
    lines = out.split("\n")
    assert len(lines) == 6 and lines[0] == lines[2] == ""
    assert err == "pymoe: note: longer than the model's context, the end was not read: line 5\n"


def test_a_reference_gives_bleu_and_chrf_with_their_signatures(trained, texts, capsys):
    out, err = output(capsys, str(trained), str(texts / "test.src"), "--reference", str(texts / "test.tgt"))
    reference = (texts / "test.tgt").read_text(encoding="utf-8").splitlines()
    scores = evaluate.score(out.splitlines(), reference)
    assert err.splitlines() == [str(scores), scores.bleu_signature, scores.chrf_signature]
    assert json.loads((trained / "result.json").read_text())["sparse"]["tests"]["test"] == scores._asdict()


def test_resuming_a_finished_training_says_the_same_again(trained, capsys):
    names = ("checkpoint.safetensors", "translations.txt", "metrics.jsonl", "dense/checkpoint.safetensors")
    before = [(trained / name).read_bytes() for name in names]
    out, _ = output(capsys, "train", "--resume", str(trained), "--no-plots", "--no-verify")
    assert "continuing" in out and [(trained / name).read_bytes() for name in names] == before


def state(folder) -> dict[str, bytes]:
    names = ["checkpoint.safetensors", "metrics.jsonl", "translations.txt"]
    names += [os.path.join("dense", name) for name in names[:2]]
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_continued_gives_the_same_bytes(how, texts, tmp_path):
    run = ["translate", "train", str(texts / "src"), str(texts / "tgt"), *QUICK, "--steps", "60", "--save-every", "7"]
    code, out, err = call(*run, "--out", str(tmp_path / "whole"))
    assert (code, err) == (0, ""), out
    rng = np.random.default_rng(5)
    process = start(*run, "--out", str(tmp_path / "run"))
    said = []
    for folder in ("", "dense"):
        wait_for_lines(process, tmp_path / "run" / folder / "metrics.jsonl", int(rng.integers(5, 50)))
        process.send_signal(how)
        said.append((*process.communicate(timeout=60), process.returncode))
        process = start("translate", "train", "--resume", str(tmp_path / "run"), "--no-plots", "--no-verify")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, (out, err)
    assert state(tmp_path / "run") == state(tmp_path / "whole") and len(state(tmp_path / "run")) == 5
    stopped = [err for _, err, code in said if code == (130 if how == signal.SIGINT else -9)]
    assert stopped
    if how == signal.SIGINT:
        again = f"continue with `pymoe translate train --resume {tmp_path / 'run'}`"
        assert all(again in err and "Traceback" not in err for err in stopped)


def refuse(capsys, *args: str) -> str:
    """It must say exactly one line on stderr and end with status 2."""
    capsys.readouterr()
    try:
        code = main(["translate", *args])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    assert err.startswith("pymoe: error: ") and err.count("\n") == 1, err
    return err


OPTIONS = {
    "no such preset": (["--preset", "huge"], "--preset must be one of default, names, tiny, got 'huge'"),
    "no steps": (["--steps", "0"], "--steps must be a positive integer, got 0"),
    "steps and minutes": (["--steps", "5", "--minutes", "1"], "give --steps or --minutes, not both"),
    "no minutes": (["--minutes", "0"], "--minutes must be a finite number above 0, got 0.0"),
    "seed": (["--seed", "-1"], "--seed must not be negative"),
    "heads": (["--width", "18"], "must be a multiple of twice the heads, 4, got 18"),
    "no layers": (["--layers", "0"], "--layers must be an integer of at least 1, got 0"),
    "k": (["--k", "9"], "--k must be at most the number of --experts, 4, got 9"),
    "dropout": (["--dropout", "1"], "--dropout must lie in [0, 1), got 1.0"),
    "smoothing": (["--label-smoothing", "2"], "--label-smoothing must lie in [0, 1), got 2.0"),
    "batch": (["--batch-tokens", "0"], "--batch-tokens must be a positive integer, got 0"),
    "rate": (["--lr", "nan"], "--lr must be a finite number"),
    "vocabulary": (["--vocabulary", "100"], "needs 3 + 256 tokens at least, got --vocabulary=100"),
    "beam": (["--beam", "0"], "--beam must be an integer of at least 1"),
    "alpha": (["--alpha", "-1"], "--alpha must be a finite number of at least 0"),
    "beta": (["--beta", "nan"], "--beta must be a finite number of at least 0"),
    "reference": (["--reference", "x"], "--reference belongs to `pymoe translate MODEL`"),
    "a pair with files": (["--pair", "en-de"], "--pair is for the built-in names and dates"),
    "context": (["--context", "1"], "no held-out pair has at most 0 tokens a side"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_cannot_be_are_refused_before_anything_is_made(name, texts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options, message = OPTIONS[name]
    files = [str(texts / "src"), str(texts / "tgt")]
    assert message in refuse(capsys, "train", *files, *QUICK, *options)
    assert not list(tmp_path.iterdir())


def test_texts_that_cannot_be_used_are_refused(texts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = str(texts / "src")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "latin").write_bytes("caf\u00e9\n".encode("latin-1") * 70)
    (tmp_path / "blank").write_text("\n" * 70)
    (tmp_path / "one").write_text("a\tb\n" * 9)
    for files, message in (
        ([source, "nothing"], "nothing: no such file"),
        ([source, str(texts / "test.tgt")], "has 70 lines and"),
        ([source, "empty"], "empty is empty"),
        ([source, "latin"], "latin is not UTF-8"),
        ([source, "blank"], "the target side of every pair is empty"),
        ([source], "line 1: columns parted by a tab: 1, where two are needed"),
        (["one"], "all source sentences are the same"),
        ([source, source, source], "got 3 files"),
    ):
        assert message in refuse(capsys, "train", *files, *QUICK)
    assert "--valid and --test go with files" in refuse(capsys, "train", *QUICK, "--valid", source)
    assert "must be two locales of Babel" in refuse(capsys, "train", *QUICK, "--pair", "english")
    assert "Babel has no locale 'xx'" in refuse(capsys, "train", *QUICK, "--pair", "en-xx")
    assert not (tmp_path / "runs").exists()


def test_a_model_that_cannot_be_used_is_refused(trained, texts, tmp_path, monkeypatch, capsys):
    source = str(texts / "src")
    raw = (trained / "checkpoint.safetensors").read_bytes()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "checkpoint.safetensors").write_bytes(raw[:-999])
    (tmp_path / "none").mkdir()
    for place, message in (
        ("nothing", "nothing: no such model"),
        (str(tmp_path / "none"), "holds no checkpoint.safetensors"),
        (str(tmp_path / "cut"), "use another copy"),
        (source, "use another copy"),
    ):
        assert message in refuse(capsys, place, source)
    assert "no such file" in refuse(capsys, str(trained), "nothing")
    assert "translate one file at a time, got 2" in refuse(capsys, str(trained), source, source)
    assert "leave out --steps" in refuse(capsys, str(trained), source, "--steps", "3")
    assert "has 8 lines, and 70 are to be translated" in refuse(
        capsys, str(trained), source, "--reference", str(texts / "test.tgt")
    )
    for typed, message in ((b"", "standard input is empty"), (b"caf\xe9", "standard input is not UTF-8 (byte 3)")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed)))
        assert message in refuse(capsys, str(trained))


def test_nothing_is_overwritten_and_a_resumed_text_must_be_the_same(trained, texts, tmp_path, capsys):
    files = [str(texts / "src"), str(texts / "tgt")]
    before = (trained / "checkpoint.safetensors").read_bytes()
    assert "is not empty: give a new folder" in refuse(capsys, "train", *files, *QUICK, "--out", str(trained))
    assert "leave out --steps" in refuse(capsys, "train", "--resume", str(trained), "--steps", "3")
    assert "leave out the files" in refuse(capsys, "train", *files, "--resume", str(trained))
    assert "does not exist" in refuse(capsys, "train", "--resume", str(tmp_path / "nothing"))
    copies = [tmp_path / "src", tmp_path / "tgt"]
    for copy, file in zip(copies, files, strict=True):
        shutil.copy(file, copy)
    run = tmp_path / "run"
    assert (
        main(["translate", "train", *map(str, copies), *QUICK, "--steps", "3", "--no-compare-dense", "--out", str(run)])
        == 0
    )
    copies[1].write_text("another text\n" * 70)
    assert "not the text that" in refuse(capsys, "train", "--resume", str(run))
    assert (trained / "checkpoint.safetensors").read_bytes() == before


def test_a_translator_is_not_a_language_model_and_the_reverse(trained, tmp_path, monkeypatch, capsys):
    assert main(["generate", str(trained)]) == 2
    assert "is a translation model, not a language model" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--preset", "tiny", "--steps", "2", "--no-plots", "--no-verify", "--out", "lm"]) == 0
    assert "is a language model, not a translator" in refuse(capsys, "lm")


@pytest.mark.slow
def test_the_built_in_dates_are_learned(tmp_path, capsys):
    """May is both "5. Mai" and "05.05." of one English form: no more than about 97 % can be right."""
    out, _ = output(capsys, "train", "--no-compare-dense", "--no-plots", "--out", str(tmp_path / "run"))
    scores = json.loads((tmp_path / "run" / "result.json").read_text())["sparse"]["tests"]
    assert scores["dates"]["exact"] >= 0.9 and scores["names"]["chrf"] > 25
