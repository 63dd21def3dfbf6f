"""prune, split, merge, compress on tiny Hugging Face folders: what they leave is a whole folder that says the numbers.

The folders are written by the hub's layout with random weights (``tests.hf.vectors``), so nothing here needs torch;
where transformers is installed, it reads what was written and must give the same logits.
"""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest

from pymoe import hf
from pymoe.backend import tree
from pymoe.cli.main import main
from pymoe.models import lm
from pymoe.sparsity import masks
from pymoe.surgery import targets
from tests.hf import vectors

pytest.importorskip("safetensors")
tokenizers = pytest.importorskip("tokenizers")

WORDS = "the of a router expert token weight zero mask layer gate half".split()
SIZES = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16}
FEW = ["--windows", "12"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    from safetensors.numpy import save_file

    place = tmp_path_factory.mktemp("hub")
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    rng = np.random.default_rng(0)
    (place / "text.txt").write_text(" ".join(rng.choice(WORDS, 900)))
    (place / "short.txt").write_text(" ".join(rng.choice(WORDS, 100)))
    for name, family, f in (("mixtral", "mixtral", 8), ("llama", "llama", 24), ("other", "llama", 24),
                            ("mistral", "mistral", 24)):  # fmt: skip
        raw = vectors.CONFIGS[family] | SIZES | {"vocab_size": len(WORDS), "intermediate_size": f}
        raw |= {"num_local_experts": 4, "num_experts_per_tok": 2} if family == "mixtral" else {}
        raw.pop("head_dim", None)
        tensors = vectors.tensors(raw)
        if name == "other":
            tensors = {n: (a * rng.uniform(0.8, 1.2, a.shape)).astype(a.dtype) for n, a in tensors.items()}
        (place / name).mkdir()
        (place / name / "config.json").write_text(json.dumps(raw))
        save_file({n: a.astype(np.float32) for n, a in tensors.items()}, place / name / "model.safetensors")
        library = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=WORDS[0]))
        library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        library.save(str(place / name / "tokenizer.json"))
    return place


def everything(folder) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(autouse=True)
def unchanged(folders):
    before = everything(folders)
    yield
    assert everything(folders) == before


def refuse(capsys, *args: object) -> str:
    capsys.readouterr()
    assert main([str(a) for a in args]) == 2
    err = capsys.readouterr().err
    assert err.startswith("pymoe: error: ") and err.count("\n") == 1, err
    return err


def ids(cfg):
    return np.random.default_rng(5).integers(0, cfg.vocab, (2, 11))


def logits(cfg, p):
    return lm.forward(ids(cfg), p, cfg)[0].logits


def whole(folder):
    """The model of a folder that has all that a folder needs, and nothing else."""
    names = {p.name for p in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", folder_record(folder)}
    found = hf.read(str(folder))
    return found.cfg, found.p


def folder_record(folder) -> str:
    return next(p.name for p in folder.iterdir() if p.name in ("prune.json", "split.json", "merge.json"))


def record(folder):
    return json.loads((folder / folder_record(folder)).read_text())


def command(*args: object) -> None:
    assert main([str(a) for a in args]) == 0


@pytest.mark.parametrize("method", ["random", "magnitude", "snip", "taylor", "movement", "wanda", "sparsegpt", "obs"])
def test_weights(method, folders, tmp_path, capsys):
    out = tmp_path / "out"
    extra = ["--score-steps", "3"] if method == "movement" else []
    command(
        "prune", folders / "mixtral", "--method", method, "--text", folders / "text.txt", *FEW, *extra, "--out", out
    )
    cfg, p = whole(out)
    zeros = 0
    for name in targets.names(p, "experts"):
        w = tree.flatten(p)[name]
        zeros += int((w == 0).sum())
        pool = w.shape[-1] if method in ("wanda", "obs") else w.shape[-1] * w.shape[-2]
        assert ((w == 0).reshape(-1, pool).sum(1) == masks.count(0.5, pool)).all()
    said = record(out)
    assert said["zeros"] == [0, zeros] and said["dtype"] == "float32"
    assert said["bytes"][1] == 4 * sum(a.size for a in tree.flatten(p).values())
    assert f"{zeros:,}" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["frequency", "reap", "naee", "naee-greedy", "units"])
def test_experts_and_units(method, folders, tmp_path):
    out = tmp_path / "out"
    options = ["--method", method, "--sparsity", "0.5", "--text", folders / "text.txt", *FEW]
    command("prune", folders / "mixtral", *options, "--out", out)
    cfg, p = whole(out)
    assert (cfg.moe.n_experts, cfg.moe.d_ff) == ((4, 4) if method == "units" else (2, 8))
    assert record(out)["parameters"][1] == sum(a.size for a in tree.flatten(p).values())


@pytest.mark.parametrize("schedule", ["one-shot", "gradual", "lottery", "rigl"])
def test_finetuning(schedule, folders, tmp_path):
    """The zeros stay, and training on makes the loss of these random weights smaller."""
    out = tmp_path / "out"
    options = ["--method", "magnitude", "--schedule", schedule, "--rounds", "2", "--finetune", "9", "--lr", "0.003"]
    command("prune", folders / "mixtral", *options, "--text", folders / "text.txt", "--out", out)
    cfg, p = whole(out)
    said = record(out)
    for name in targets.names(p, "experts"):
        assert abs((tree.flatten(p)[name] == 0).mean() - 0.5) < 0.02
    assert said["held_out"][1] < said["pruned"]


@pytest.mark.parametrize("how", ["copy", "granular", "drop"])
def test_split(how, folders, tmp_path):
    out = tmp_path / "out"
    command("split", folders / "llama", "--how", how, "--experts", "4", "--k", "2", "--out", out)
    cfg, p = whole(out)
    assert cfg.moe.n_experts == 4 and json.loads((out / "config.json").read_text())["model_type"] == "mixtral"
    old = hf.read(str(folders / "llama"))
    want = logits(old.cfg, old.p)
    same = np.abs(logits(cfg, p) - want).max() <= 1e-4 * np.abs(want).max()
    assert same == (how != "drop")


@pytest.mark.parametrize("how", ["m-smoe", "hc-smoe"])
def test_merged_experts_are_written_as_copies(how, folders, tmp_path, capsys):
    """Layers tie different ids, which a config.json cannot say: each id gets its copy, and no number claims less."""
    out = tmp_path / "out"
    command("merge", folders / "mixtral", "--how", how, "--groups", "2", "--text", folders / "text.txt", *FEW,
            "--out", out)  # fmt: skip
    cfg, p = whole(out)
    said = record(out)
    assert said["parameters"][0] == said["parameters"][1] == sum(a.size for a in tree.flatten(p).values())
    for i, group_of in said["groups"].items():
        for w in p["layers"][i]["mlp"]["experts"].values():
            for e, g in enumerate(group_of):
                assert np.array_equal(w[e], w[group_of.index(g)])
    assert "cannot tie experts" in capsys.readouterr().out


def test_to_dense(folders, tmp_path):
    out = tmp_path / "out"
    command("merge", folders / "mixtral", "--how", "to-dense", "--text", folders / "text.txt", *FEW, "--out", out)
    assert whole(out)[0].moe is None


@pytest.mark.parametrize("how", ["uniform", "soup", "slerp", "ties", "btx"])
def test_merged_models(how, folders, tmp_path):
    out = tmp_path / "out"
    options = ["--base", folders / "other"] if how == "ties" else []
    command("merge", folders / "llama", folders / "other", "--how", how, *options, "--text", folders / "text.txt",
            "--out", out)  # fmt: skip
    cfg, p = whole(out)
    assert (cfg.moe is not None) == (how == "btx")
    if how == "uniform":
        a, b = (hf.read(str(folders / name)).p["layers"]["0"]["mlp"]["down_proj"] for name in ("llama", "other"))
        got = p["layers"]["0"]["mlp"]["down_proj"]
        assert np.abs(got - (a.astype(np.float64) + b) / 2).max() <= 1e-7 * np.abs(got).max()


def test_compress(folders, tmp_path):
    out = tmp_path / "out"
    options = ["--levels", "0.5", "--weights", "magnitude", "--experts", "reap", "--finetune", "2", *FEW]
    command("compress", folders / "mixtral", "--text", folders / "text.txt", *options, "--out", out)
    rows = json.loads((out / "compress.json").read_text())["rows"]
    assert rows[0]["tuned"] is not None and all(row["tuned"] is not None for row in rows)
    assert sorted(p.name for p in out.iterdir()) == ["compress.csv", "compress.json", "compress.md"]


def test_the_same_logits_in_transformers(folders, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    for args in (["prune", folders / "mixtral"], ["split", folders / "mistral"]):
        out = tmp_path / args[0]
        command(*args, "--text", folders / "text.txt", *FEW, "--out", out)
        cfg, p = whole(out)
        model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
        with torch.no_grad():
            want = model(torch.from_numpy(ids(cfg))).logits.numpy()
        assert np.abs(logits(cfg, p) - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize(
    "args, message",
    [
        (["prune", "mixtral"], "--text"),
        (["prune", "mixtral", "--text", "short.txt"], "too short"),
        (["prune", "mixtral", "--text", "nowhere.txt"], "no such file"),
        (["prune", "mixtral", "--method", "skip", "--text", "text.txt"], "is for runs"),
        (["prune", "mixtral", "--method", "magnitude", "--store", "csr"], "--store csr is for runs"),
        (["prune", "llama", "--method", "magnitude"], "no matrices of 'experts'"),
        (["prune", "mixtral", "--method", "magnitude", "--pattern", "3:5"], "a tail of"),
        (["split", "mixtral"], "already has experts"),
        (["split", "llama", "--experts", "2", "--k", "3"], "--k"),
        (["split", "llama", "--how", "partition", "--experts", "4"], "sigmoid"),
        (["merge", "llama", "mistral", "--how", "uniform"], "another architecture"),
        (["merge", "llama", "other", "--how", "btx", "--k", "3"], "k"),
        (["merge", "llama", "other", "--how", "ties", "--base", "mixtral"], "another architecture"),
        (["compress", "llama", "--text", "text.txt"], "dense"),
    ],
)
def test_bad_input_is_one_line_and_no_folder_stays(args, message, folders, tmp_path, capsys):
    places = {p.name: str(p) for p in folders.iterdir()} | {"nowhere.txt": str(folders / "nowhere.txt")}
    said = refuse(capsys, *[places.get(a, a) for a in args], "--out", tmp_path / "out")
    assert message in said
    assert not (tmp_path / "out").exists()


def test_folders_that_are_damaged(folders, tmp_path, capsys):
    from safetensors.numpy import load_file, save_file

    place, out = tmp_path / "model", tmp_path / "out"
    args = ["prune", place, "--text", folders / "text.txt", *FEW, "--out", out]

    def again():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(folders / "mixtral", place)

    again()
    (place / "tokenizer.json").unlink()
    assert "no tokenizer.json" in refuse(capsys, *args)
    (place / "tokenizer.json").write_text("{")
    assert "tokenizer.json cannot be read" in refuse(capsys, *args)
    again()
    wide = {f"w{i}": i for i in range(40)} | {word: 40 + i for i, word in enumerate(WORDS)}
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(wide, unk_token="w0"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    library.save(str(place / "tokenizer.json"))
    assert "do not belong together" in refuse(capsys, *args)
    again()
    tensors = load_file(place / "model.safetensors")
    name = next(n for n in sorted(tensors) if n.endswith("w2.weight"))
    tensors[name] = np.where(tensors[name] == tensors[name].max(), np.nan, tensors[name])
    save_file(tensors, place / "model.safetensors")
    assert "holds nan" in refuse(capsys, *args)
    (place / "model.safetensors").write_bytes((folders / "mixtral" / "model.safetensors").read_bytes()[:1000])
    assert "damaged" in refuse(capsys, *args)
    assert not out.exists()


def test_models_of_other_tokens_are_not_merged(folders, tmp_path, capsys):
    shutil.copytree(folders / "other", tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    path.write_text(path.read_text().replace('"mask"', '"veil"'))
    said = refuse(capsys, "merge", folders / "llama", tmp_path / "other", "--how", "uniform", "--out", tmp_path / "out")
    assert "other tokens" in said
