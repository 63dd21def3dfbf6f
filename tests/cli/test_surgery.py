"""prune, split, merge, compress: what they print, what they leave, and that the old model is as it was."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from pymoe.backend import tree
from pymoe.cli.main import main
from pymoe.sparsity import masks
from pymoe.surgery import experts, targets, weights
from pymoe.train import job
from tests.cli.runs import SMALL

CALIBRATE = ["--windows", "16"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run with its dense twin, in a folder of its own."""
    folder = tmp_path_factory.mktemp("surgery")
    assert main(["train", *SMALL, "--steps", "30", "--compare-dense", "--out", str(folder / "run")]) == 0
    return folder


def everything(folder) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def loaded(folder):
    return job.load(job.find(str(folder)))


@pytest.fixture
def unchanged(trained):
    before = everything(trained / "run")
    yield
    assert everything(trained / "run") == before


def refuse(capsys, *args: str) -> str:
    capsys.readouterr()
    try:
        code = main(list(args))
    except SystemExit as stop:
        code = stop.code
    _, err = capsys.readouterr()
    assert code == 2 and err.startswith("pymoe: error: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("method", weights.METHODS)
def test_pruned_weights(method, trained, tmp_path, capsys, unchanged):
    out = tmp_path / "out"
    extra = ["--score-steps", "5"] if method == "movement" else []
    assert main(["prune", str(trained / "run"), "--method", method, *CALIBRATE, *extra, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "held-out loss" in said and str(out) in said
    work, state = loaded(out)
    names = targets.names(state.p, "experts")
    assert sorted(state.masks) == sorted(names)
    for name in names:
        mask, w = state.masks[name], tree.flatten(state.p)[name]
        assert not w[~mask].any()
        pool = mask.shape[-1] if method == "wanda" else mask.shape[-1] * mask.shape[-2]
        if method not in weights.COMPENSATING:
            assert (pool - mask.reshape(-1, pool).sum(1) == masks.count(0.5, pool)).all()
    assert work.history[-1]["method"] == method
    assert json.loads((out / "prune.json").read_text())["zeros"][1] > 0
    assert main(["verify", str(out), "--directions", "1"]) == 0
    assert main(["generate", str(out), "--tokens", "5"]) == 0


@pytest.mark.parametrize("method", experts.METHODS)
def test_pruned_experts(method, trained, tmp_path, capsys, unchanged):
    out = tmp_path / "out"
    assert (
        main(["prune", str(trained / "run"), "--method", method, "--sparsity", "0.4", *CALIBRATE, "--out", str(out)])
        == 0
    )
    work, state = loaded(out)
    assert work.model.moe.n_experts == 3 and state.p["layers"]["0"]["mlp"]["router"]["weight"].shape[0] == 3
    assert main(["verify", str(out), "--directions", "1"]) == 0


def test_units_and_skipping(trained, tmp_path, capsys, unchanged):
    assert (
        main(["prune", str(trained / "run"), "--method", "units", "--sparsity", "0.25", "--out", str(tmp_path / "u")])
        == 0
    )
    assert loaded(tmp_path / "u")[0].model.moe.d_ff == 9
    assert main(["prune", str(trained / "run"), "--method", "skip", *CALIBRATE, "--out", str(tmp_path / "s")]) == 0
    work, _ = loaded(tmp_path / "s")
    assert all(0 < b.feed_forward.router.skip <= 1 for b in work.model.stack.blocks)
    assert main(["verify", str(tmp_path / "s"), "--directions", "1"]) == 0


@pytest.mark.parametrize(
    "pattern, what", [("2:4", "experts"), ("rows", "experts"), ("4x4", "experts"), ("heads", "all")]
)
def test_patterns(pattern, what, trained, tmp_path, unchanged):
    out = tmp_path / "out"
    options = ["--method", "magnitude", "--pattern", pattern, "--what", what, "--out", str(out)]
    assert main(["prune", str(trained / "run"), *options]) == 0
    _, state = loaded(out)
    assert state.masks and all(0 < m.sum() < m.size for m in state.masks.values())


def test_the_default_folder_lies_beside_the_run(trained, capsys, unchanged):
    for n in ("", "-2"):
        assert main(["prune", str(trained / "run"), "--method", "magnitude"]) == 0
        assert (trained / f"run-magnitude-0.5{n}" / "checkpoint.safetensors").is_file()


def test_finetuning_gives_back_and_keeps_the_zeros(trained, tmp_path, capsys, unchanged):
    out = tmp_path / "out"
    options = ["--method", "magnitude", "--sparsity", "0.9", "--finetune", "30", "--out", str(out)]
    assert main(["prune", str(trained / "run"), *options]) == 0
    record = json.loads((out / "prune.json").read_text())
    assert record["held_out"][1] < record["pruned"]
    _, state = loaded(out)
    for name, mask in state.masks.items():
        assert not tree.flatten(state.p)[name][~mask].any()
    assert main(["train", "--resume", str(out), "--no-plots"]) == 0


@pytest.mark.parametrize("schedule", ["gradual", "lottery", "rigl"])
def test_schedules(schedule, trained, tmp_path, capsys, unchanged):
    out = tmp_path / "out"
    options = [
        "--method",
        "magnitude",
        "--sparsity",
        "0.8",
        "--schedule",
        schedule,
        "--rounds",
        "2",
        "--finetune",
        "12",
    ]
    assert main(["prune", str(trained / "run"), *options, "--out", str(out)]) == 0
    _, state = loaded(out)
    for name, mask in state.masks.items():
        assert not tree.flatten(state.p)[name][~mask].any()
    gone = sum(int((~m).sum()) for m in state.masks.values())
    assert abs(gone / sum(m.size for m in state.masks.values()) - 0.8) < 0.01


@pytest.mark.parametrize("store, pattern", [("csr", "unstructured"), ("bsr", "4x4"), ("nm", "2:4")])
def test_stored_sparse(store, pattern, trained, tmp_path, capsys, unchanged):
    flat, packed = tmp_path / "flat", tmp_path / "packed"
    options = ["--method", "magnitude", "--sparsity", "0.75", "--pattern", pattern]
    assert main(["prune", str(trained / "run"), *options, "--out", str(flat)]) == 0
    assert main(["prune", str(trained / "run"), *options, "--store", store, "--out", str(packed)]) == 0
    said = []
    for folder in (flat, packed):
        capsys.readouterr()
        assert main(["generate", str(folder), "--tokens", "20", "--temperature", "0"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    sizes = [(folder / "checkpoint.safetensors").stat().st_size for folder in (flat, packed)]
    assert sizes[1] < sizes[0] / 2
    assert main(["verify", str(packed), "--directions", "1"]) == 0


def test_pruning_twice_keeps_what_was_pruned_first(trained, tmp_path, capsys, unchanged):
    a, b = tmp_path / "a", tmp_path / "b"
    assert main(["prune", str(trained / "run"), "--method", "random", "--sparsity", "0.3", "--out", str(a)]) == 0
    assert main(["prune", str(a), "--method", "magnitude", "--sparsity", "0.5", "--out", str(b)]) == 0
    first, second = loaded(a)[1].masks, loaded(b)[1].masks
    assert all(not second[name][~first[name]].any() for name in first)
    assert len(loaded(b)[0].history) == 2


@pytest.mark.parametrize("how", ["copy", "partition", "granular", "drop"])
def test_split(how, trained, tmp_path, capsys, unchanged):
    out = tmp_path / "out"
    dense = trained / "run" / "dense"
    width = loaded(dense)[0].model.d_ff
    pieces = next(n for n in (2, 3, 5, 7, 11, 13) if width % n == 0)
    options = {
        "copy": ["--experts", "4"],
        "partition": ["--experts", str(pieces), "--k", str(pieces)],
        "granular": ["--experts", str(2 * pieces), "--pieces", str(pieces), "--k", str(pieces)],
        "drop": ["--experts", "4", "--ratio", "0.3"],
    }[how]
    assert main(["split", str(dense), "--how", how, *options, "--out", str(out)]) == 0
    record = json.loads((out / "split.json").read_text())
    same = abs(record["held_out"][1] - record["held_out"][0]) < 1e-4
    assert same == (how != "drop")
    assert main(["verify", str(out), "--directions", "1"]) == 0
    assert loaded(out)[0].history[-1]["how"] == how


@pytest.mark.parametrize("grouping", ["random", "coactivation", "gradient"])
def test_partitions(grouping, trained, tmp_path, unchanged):
    width = loaded(trained / "run" / "dense")[0].model.d_ff
    pieces = next(n for n in (2, 3, 5, 7, 11, 13) if width % n == 0)
    options = ["--how", "partition", "--grouping", grouping, "--experts", str(pieces), "--k", "1", *CALIBRATE]
    assert main(["split", str(trained / "run" / "dense"), *options, "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("average", ["uniform", "frequency", "fisher", "regmean", "ties", "zipit"])
@pytest.mark.parametrize("how", ["m-smoe", "hc-smoe"])
def test_merged_experts(how, average, trained, tmp_path, capsys, unchanged):
    out = tmp_path / "out"
    options = ["--how", how, "--groups", "3", "--average", average, *CALIBRATE, "--out", str(out)]
    assert main(["merge", str(trained / "run"), *options]) == 0
    work, state = loaded(out)
    for i, b in enumerate(work.model.stack.blocks):
        assert len(set(b.feed_forward.tied)) == 3
        assert state.p["layers"][str(i)]["mlp"]["experts"]["down_proj"].shape[0] == 3
    assert main(["verify", str(out), "--directions", "1"]) == 0


def test_to_dense_and_back(trained, tmp_path, capsys, unchanged):
    out = tmp_path / "dense"
    assert main(["merge", str(trained / "run"), "--how", "to-dense", *CALIBRATE, "--out", str(out)]) == 0
    assert loaded(out)[0].model.moe is None
    assert main(["split", str(out), "--experts", "3", "--out", str(tmp_path / "again")]) == 0


@pytest.mark.parametrize(
    "how", ["uniform", "soup", "slerp", "multislerp", "ties", "dare", "dare-ties", "arithmetic", "btx"]
)
def test_merged_models(how, trained, tmp_path, capsys, unchanged):
    out = tmp_path / "out"
    first = trained / "run" / "dense"
    second, base = tmp_path / "second", tmp_path / "base"
    for folder, seed in ((second, "1"), (base, "2")):
        assert main(["train", *SMALL, "--steps", "2", "--seed", seed, "--compare-dense", "--out", str(folder)]) == 0
    options = ["--base", str(base / "dense")] if how in ("ties", "dare", "dare-ties", "arithmetic") else []
    assert main(["merge", str(first), str(second / "dense"), "--how", how, *options, "--out", str(out)]) == 0
    work, state = loaded(out)
    assert (work.model.moe is not None) == (how == "btx")
    assert main(["verify", str(out), "--directions", "1"]) == 0


def test_compress(trained, tmp_path, capsys, unchanged):
    out = tmp_path / "out"
    options = ["--levels", "0.5", "--weights", "magnitude,wanda", "--experts", "reap", "--finetune", "3", *CALIBRATE]
    report = ["--report"]
    pytest.importorskip("matplotlib")
    assert main(["compress", str(trained / "run"), *options, *report, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "loses least" in said and "wanda 2:4" in said
    rows = json.loads((out / "compress.json").read_text())["rows"]
    assert rows[0]["label"] == "as it is" and len(rows) >= 5
    for row in rows[1:]:
        assert (
            0.39 < row["zeros"] < 0.61
            and row["speed"] > 0
            and np.isfinite(row["loss"])
            and row["tuned"] < row["loss"] + 0.1
        )
    image = pytest.importorskip("matplotlib.image")
    assert image.imread(out / "compress.png").std() > 0.05
    assert (out / "compress.csv").read_text().count("\n") == len(rows) + 1


@pytest.mark.parametrize(
    "args, message",
    [
        (["prune", "RUN", "--method", "nonsense"], "--method must be one of"),
        (["prune", "RUN", "--sparsity", "1.5"], "must lie in [0, 1]"),
        (["prune", "RUN", "--sparsity", "nan"], "must lie in [0, 1]"),
        (["prune", "RUN", "--pattern", "5:4"], "0 < N <= M"),
        (["prune", "RUN", "--pattern", "3:5", "--method", "magnitude"], "of 16 columns a tail of 1 is left"),
        (["prune", "RUN", "--pattern", "7x7", "--method", "magnitude"], "7"),
        (["prune", "RUN", "--pattern", "stripes"], "--pattern must be"),
        (["prune", "RUN", "--scope", "galaxy"], "scope must be"),
        (["prune", "RUN", "--what", "router"], "what to prune must be"),
        (["prune", "RUN", "--method", "threshold"], "needs --threshold"),
        (["prune", "RUN", "--schedule", "rigl", "--method", "magnitude"], "give --finetune"),
        (["prune", "RUN", "--method", "reap", "--sparsity", "1"], "leaves no expert"),
        (["prune", "RUN", "--method", "units", "--sparsity", "1"], "leaves no hidden unit"),
        (["prune", "RUN", "--method", "magnitude", "--store", "zip"], "stored format"),
        (["prune", "RUN", "--text", "nowhere.txt"], "no such file"),
        (["prune", "nowhere"], "nowhere"),
        (["split", "RUN"], "already has experts"),
        (["split", "DENSE", "--experts", "0"], "--experts"),
        (["split", "DENSE", "--how", "magic"], "how must be one of"),
        (["merge", "RUN", "--how", "magic"], "--how must be one of"),
        (["merge", "RUN", "--how", "slerp"], "several"),
        (["merge", "RUN", "DENSE", "--how", "uniform"], "another architecture"),
        (["merge", "RUN", "--groups", "9"], "9"),
        (["merge", "DENSE"], "no experts"),
        (["merge", "DENSE", "DENSE", "--how", "ties"], "--base"),
        (["compress", "RUN", "--levels", "0.5,x"], "--levels takes"),
        (["compress", "RUN", "--levels", "0"], "--levels takes"),
        (["compress", "RUN", "--weights", "magic"], "--weights takes"),
    ],
)
def test_bad_input_is_one_line_and_no_folder_stays(args, message, trained, tmp_path, capsys, unchanged):
    places = {"RUN": str(trained / "run"), "DENSE": str(trained / "run" / "dense")}
    out = tmp_path / "out"
    said = refuse(capsys, *[places.get(a, a) for a in args], "--out", str(out))
    assert message in said
    assert not out.exists()


def test_a_folder_that_is_used_is_refused(trained, capsys, unchanged):
    said = refuse(capsys, "prune", str(trained / "run"), "--method", "magnitude", "--out", str(trained / "run"))
    assert "is not empty" in said
