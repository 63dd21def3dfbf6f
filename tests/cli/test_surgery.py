"""prune, split, merge, compress: what they print, what they leave, and that the old model is as it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from pymoe.backend import tree
from pymoe.cli.main import main
from pymoe.sparsity import masks
from pymoe.surgery import calibration, experts, targets, weights
from pymoe.train import data, evaluate, fit, job
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


def test_experts_merged_to_a_number_in_all_layers(trained, tmp_path):
    out = tmp_path / "out"
    assert main(["merge", str(trained / "run"), "--groups-in-all", "5", *CALIBRATE, "--out", str(out)]) == 0
    assert sum(len(set(b.feed_forward.tied)) for b in loaded(out)[0].model.stack.blocks) == 5


def test_to_dense_and_back(trained, tmp_path, capsys, unchanged):
    out = tmp_path / "dense"
    assert main(["merge", str(trained / "run"), "--how", "to-dense", *CALIBRATE, "--out", str(out)]) == 0
    assert loaded(out)[0].model.moe is None
    assert main(["split", str(out), "--experts", "3", "--out", str(tmp_path / "again")]) == 0


@pytest.fixture(scope="module")
def others(trained):
    """Two more dense runs: the first one with other numbers in its tensors."""
    folders = []
    work, state = loaded(trained / "run" / "dense")
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        flat = tree.flatten(state.p)
        moved = {n: (a + 0.02 * rng.standard_normal(a.shape)).astype(a.dtype) for n, a in flat.items()}
        folders.append(trained / f"other-{seed}")
        folders[-1].mkdir()
        job.save(str(folders[-1] / "checkpoint.safetensors"), work, state._replace(p=tree.unflatten(moved)))
    return folders


@pytest.mark.parametrize(
    "how", ["uniform", "soup", "slerp", "multislerp", "ties", "dare", "dare-ties", "arithmetic", "btx"]
)
def test_merged_models(how, trained, others, tmp_path, capsys, unchanged):
    out = tmp_path / "out"
    first = trained / "run" / "dense"
    second, base = others
    options = ["--base", str(base)] if how in ("ties", "dare", "dare-ties", "arithmetic") else []
    assert main(["merge", str(first), str(second), "--how", how, *options, "--out", str(out)]) == 0
    work, state = loaded(out)
    assert (work.model.moe is not None) == (how == "btx")
    assert main(["verify", str(out), "--directions", "1"]) == 0


def test_a_soup_is_not_judged_by_the_text_that_chose_it(trained, others, tmp_path):
    out = tmp_path / "out"
    first = trained / "run" / "dense"
    assert main(["merge", str(first), str(others[0]), "--how", "soup", "--out", str(out)]) == 0
    before = json.loads((out / "merge.json").read_text())["held_out"][0]
    work, state = loaded(first)
    held = data.load(work.source, window=work.settings.window, known=work.vocabulary).held_out
    first_half, second_half = (
        evaluate.loss(state.p, work.model, part, window=work.settings.window, rows=32, limit=512).loss
        for part in (held[: len(held) // 2], held[len(held) // 2 :])
    )
    assert before == second_half != first_half


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
        (["merge", "RUN", "--groups-in-all", "99"], "99"),
        (["merge", "RUN", "--groups", "2", "--groups-in-all", "5"], "--groups and --groups-in-all"),
        (["merge", "RUN", "--how", "to-dense", "--groups", "2"], "--groups"),
        (["merge", "DENSE"], "no experts"),
        (["merge", "DENSE", "DENSE", "--how", "ties"], "--base"),
        (["compress", "RUN", "--levels", "0.5,x"], "--levels takes"),
        (["compress", "RUN", "--levels", "0"], "--levels takes"),
        (["compress", "RUN", "--weights", "magic"], "--weights takes"),
        (["merge", "DENSE", "DENSE", "--how", "ties", "--base", "RUN"], "another architecture"),
        (["merge", "DENSE", "DENSE", "--how", "uniform", "--base", "RUN"], "does not look at --base"),
        (["prune", "RUN", "--method", "reap", "--pattern", "2:4"], "does not look at --pattern"),
        (
            ["prune", "RUN", "--method", "units", "--store", "csr", "--scope", "row"],
            "does not look at --scope, --store",
        ),
        (["prune", "RUN", "--method", "magnitude", "--threshold", "0.1"], "does not look at --threshold"),
        (["prune", "RUN", "--method", "threshold", "--threshold", "-1"], "not negative"),
        (["prune", "RUN", "--method", "threshold", "--threshold", "nan"], "not negative"),
        (["prune", "RUN", "--method", "magnitude", "--pattern", "2:4", "--scope", "row"], "--scope is for single"),
    ],
)
def test_bad_input_is_one_line_and_no_folder_stays(args, message, trained, tmp_path, capsys, unchanged):
    places = {"RUN": str(trained / "run"), "DENSE": str(trained / "run" / "dense")}
    out = tmp_path / "out"
    said = refuse(capsys, *[places.get(a, a) for a in args], "--out", str(out))
    assert message in said
    assert not out.exists()


@pytest.mark.parametrize("method", ["movement", "sparsegpt", "obs", "random", "threshold"])
def test_a_pruned_run_can_be_pruned_again_by_any_method(method, trained, tmp_path, capsys, unchanged):
    """What was pruned stays 0 (else the file cannot be loaded) and counts: 60 % of all, not of what is left."""
    a, b = tmp_path / "a", tmp_path / "b"
    first = ["--method", "random", "--sparsity", "0.25", "--what", "all", "--out", str(a)]
    assert main(["prune", str(trained / "run"), *first]) == 0
    extra = {"movement": ["--score-steps", "3"], "threshold": ["--threshold", "0.01"]}.get(method, CALIBRATE)
    share = [] if method == "threshold" else ["--sparsity", "0.6"]
    assert main(["prune", str(a), "--method", method, *share, *extra, "--out", str(b)]) == 0
    old, new = loaded(a)[1].masks, loaded(b)[1].masks
    assert new.keys() == old.keys() and all(not new[name][~old[name]].any() for name in old)
    if method in ("movement", "random"):
        for name in targets.names(loaded(b)[1].p, "experts"):
            pool = new[name].shape[-1] * new[name].shape[-2]
            assert ((~new[name]).sum((1, 2)) == masks.count(0.6, pool)).all()


def test_pruned_models_are_not_split_or_merged_and_may_skip(trained, tmp_path, capsys, unchanged):
    lean, out = tmp_path / "lean", str(tmp_path / "out")
    dense = str(trained / "run" / "dense")
    assert main(["prune", dense, "--method", "magnitude", "--what", "all", "--out", str(lean)]) == 0
    for args in (["split", str(lean)], ["merge", dense, str(lean), "--how", "uniform"]):
        assert "has pruned weights" in refuse(capsys, *args, "--out", out)
    assert main(["prune", str(trained / "run"), "--method", "magnitude", "--out", str(tmp_path / "a")]) == 0
    assert main(["prune", str(tmp_path / "a"), "--method", "skip", *CALIBRATE, "--out", str(tmp_path / "b")]) == 0
    first, second = loaded(tmp_path / "a")[1].masks, loaded(tmp_path / "b")[1].masks
    assert first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


def test_runs_of_other_characters_are_not_merged(trained, tmp_path, capsys, unchanged):
    work, state = loaded(trained / "run" / "dense")
    characters = work.vocabulary.characters
    other = dataclasses.replace(work, vocabulary=type(work.vocabulary)(characters[:-1] + chr(ord(characters[-1]) + 1)))
    job.save(str(tmp_path / "checkpoint.safetensors"), other, state)
    args = ["merge", str(trained / "run" / "dense"), str(tmp_path), "--how", "uniform", "--out", str(tmp_path / "out")]
    assert "other tokens" in refuse(capsys, *args)


@pytest.mark.parametrize("args", [["prune", "--method", "units"], ["prune", "--method", "frequency"], ["merge"]])
def test_a_broken_model_is_refused_whatever_is_done_to_it(args, trained, tmp_path, capsys, unchanged):
    work, state = loaded(trained / "run")
    flat = tree.flatten(state.p)
    flat["norm.weight"] = flat["norm.weight"].copy()
    flat["norm.weight"][3] = np.nan
    job.save(str(tmp_path / "checkpoint.safetensors"), work, state._replace(p=tree.unflatten(flat)))
    said = refuse(capsys, args[0], str(tmp_path), *args[1:], "--out", str(tmp_path / "out"))
    assert "norm.weight holds nan at (3,)" in said and not (tmp_path / "out").exists()


def test_finetuning_on_another_text_is_resumed_with_that_text(trained, tmp_path, capsys, unchanged):
    """The text of a fine-tuning stands in the checkpoint, so that a stopped one goes on with the same."""
    work, _ = loaded(trained / "run")
    text = tmp_path / "text.txt"
    text.write_text("".join(np.random.default_rng(0).choice(list(work.vocabulary.characters[-60:]), 4000)))
    out = tmp_path / "out"
    options = ["--method", "magnitude", "--finetune", "4", "--text", str(text), "--out", str(out)]
    assert main(["prune", str(trained / "run"), *options]) == 0
    assert loaded(out)[0].source == str(text) and loaded(out)[0].sha256 != work.sha256
    assert main(["train", "--resume", str(out), "--no-plots"]) == 0


def test_ctrl_c_leaves_no_folder_or_one_that_goes_on(trained, tmp_path, capsys, monkeypatch, unchanged):
    out = tmp_path / "out"
    options = ["prune", str(trained / "run"), "--method", "wanda", *CALIBRATE, "--finetune", "9", "--out", str(out)]

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(calibration, "caches", stop)
        assert main(options) == 130
    assert not out.exists()
    real = fit.advance
    with monkeypatch.context() as patch:
        patch.setattr(fit, "advance", lambda s, cfg, at, ids: stop() if at.step == 4 else real(s, cfg, at, ids))
        assert main(options) == 130
    assert f"continue with `pymoe train --resume {out}`" in capsys.readouterr().err
    assert loaded(out)[1].step == 4
    assert main(["train", "--resume", str(out), "--no-plots"]) == 0
    assert main([*options[:-1], str(tmp_path / "straight")]) == 0
    files = [folder / "checkpoint.safetensors" for folder in (out, tmp_path / "straight")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_text_that_is_no_longer_the_one_of_the_run(trained, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("abcdefgh " * 300)
    work, state = loaded(trained / "run" / "dense")
    run = tmp_path / "run"
    run.mkdir()
    job.save(str(run / "checkpoint.safetensors"), dataclasses.replace(work, source=str(text)), state)
    args = ["prune", str(run), "--method", "magnitude", "--what", "all", "--out", str(tmp_path / "out")]
    assert "no longer the text" in refuse(capsys, *args)
    assert main([*args, "--text", str(text)]) == 0


def test_the_name_says_the_pattern_and_a_folder_of_the_user_stays(trained, tmp_path, capsys):
    for pattern, name in (("2:4", "run-magnitude-2of4"), ("4x4", "run-magnitude-0.5-4x4")):
        assert main(["prune", str(trained / "run"), "--method", "magnitude", "--pattern", pattern]) == 0
        assert (trained / name / "prune.json").is_file()
    mine = tmp_path / "mine"
    mine.mkdir()
    refuse(capsys, "prune", str(trained / "run"), "--method", "magnitude", "--pattern", "3:5", "--out", str(mine))
    assert mine.is_dir()


@pytest.mark.parametrize("sparsity", ["0", "1"])
def test_nothing_and_everything_pruned(sparsity, trained, tmp_path, capsys, unchanged):
    for method in ("magnitude", "sparsegpt"):
        out = tmp_path / method
        options = ["--method", method, "--sparsity", sparsity, *CALIBRATE, "--store", "csr", "--out", str(out)]
        assert main(["prune", str(trained / "run"), *options]) == 0
        assert main(["generate", str(out), "--tokens", "3"]) == 0


def test_a_folder_that_is_used_is_refused(trained, capsys, unchanged):
    said = refuse(capsys, "prune", str(trained / "run"), "--method", "magnitude", "--out", str(trained / "run"))
    assert "is not empty" in said
