"""What the commands print and leave behind."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pymoe
from pymoe.backend.errors import GradientError
from pymoe.cli import gradients, info
from pymoe.cli.main import main
from pymoe.models import lm
from pymoe.train import data, job, objective, presets
from tests.cli.runs import environment


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    pytest.importorskip("matplotlib")
    assert main(["train", "--preset", "tiny", "--steps", "25", "--compare-dense", "--out", str(folder)]) == 0
    return folder


def test_train_says_what_it_does_and_leaves_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--preset", "tiny", "--steps", "12"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for part in (
        "pydoc_data.topics", "sha256", "model: sparse transformer", "active for a token", "gradient verified",
        "step 12/12  held-out loss", "expert load max/mean", "tokens/s", "a sample", "takes above all",
        "pymoe generate runs/tiny-1",
    ):  # fmt: skip
        assert part in out, part
    assert out.index("gradient verified") < out.index("held-out loss")
    names = {p.name for p in (tmp_path / "runs" / "tiny-1").iterdir()}
    assert names >= {"checkpoint.safetensors", "metrics.jsonl", "result.json", "learned.txt"}


def test_both_losses_stand_side_by_side(trained, capsys):
    result = json.loads((trained / "result.json").read_text())
    assert result.keys() == {"sparse", "dense"}
    sparse, dense = result["sparse"], result["dense"]
    for same in ("training_tokens", "held_out_tokens"):
        assert sparse[same] == dense[same] > 0
    assert 0 <= dense["active_parameters"] - sparse["active_parameters"] < 200
    assert sparse["parameters"] > 1.3 * dense["parameters"]
    assert all(0 < r["held_out"] < np.log(110) for r in result.values())


def test_the_pictures_are_there_and_are_not_empty(trained):
    image = pytest.importorskip("matplotlib.image")
    for name in ("loss.png", "load.png", "routing.png"):
        pixels = image.imread(trained / name)
        assert pixels.shape[0] > 300 and pixels.shape[1] > 500 and pixels.std() > 0.05, name


def test_resuming_a_finished_run_says_the_same_again(trained, capsys):
    first = (trained / "learned.txt").read_bytes()
    before = (trained / "checkpoint.safetensors").read_bytes()
    assert main(["train", "--resume", str(trained), "--no-plots"]) == 0
    assert "continuing" in capsys.readouterr().out
    assert (trained / "learned.txt").read_bytes() == first
    assert (trained / "checkpoint.safetensors").read_bytes() == before


def test_generate_is_a_function_of_its_seed_and_streams_the_prompt(trained, capsys):
    def sample(*args):
        assert main(["generate", str(trained), "--tokens", "40", "--prompt", "The ", *args]) == 0
        return capsys.readouterr().out

    one = sample("--seed", "1")
    assert one.startswith("The ") and len(one) == 4 + 40 + 1
    assert sample("--seed", "1") == one and sample("--seed", "2") != one
    assert sample("--temperature", "0", "--seed", "1") == sample("--temperature", "0", "--seed", "2")
    assert sample("--top-k", "1") == sample("--temperature", "0") == sample("--top-p", "1e-9")
    assert main(["generate", str(trained / "checkpoint.safetensors"), "--tokens", "0"]) == 0


def test_generate_of_a_model_of_bytes(tmp_path, capsys):
    text = "".join(chr(0x4E00 + i % 300) for i in range(1500))
    (tmp_path / "t").write_text(text, encoding="utf-8")
    options = ["--steps", "2", "--no-plots", "--no-verify", "--data", str(tmp_path / "t")]
    options += ["--out", str(tmp_path / "run")]
    assert main(["train", "--preset", "tiny", *options]) == 0
    assert "256 UTF-8 bytes" in capsys.readouterr().out
    assert main(["generate", str(tmp_path / "run"), "--prompt", "\u4e2d", "--tokens", "30"]) == 0
    assert capsys.readouterr().out.startswith("\u4e2d")


def test_verify_measures_the_trained_gradient(trained, capsys):
    assert main(["verify", str(trained)]) == 0
    out = capsys.readouterr().out
    assert "gradient verified: 16 tensors" in out and "step 25" in out
    assert float(out.split("largest error ")[1].split(" ")[0]) < 1e-13


def test_verify_without_the_text_takes_random_tokens(trained, tmp_path, capsys):
    work, state = job.load(str(trained / "checkpoint.safetensors"))
    import dataclasses

    job.save(str(tmp_path / "c"), dataclasses.replace(work, source="/nowhere/text"), state)
    assert main(["verify", str(tmp_path / "c"), "--directions", "1"]) == 0
    assert "is not as it was" in capsys.readouterr().err


def test_control_a_wrong_gradient_is_seen_and_stops_the_training(monkeypatch, tmp_path, capsys):
    good = lm.backward

    def wrong(dlogits, cache, dlosses=None):
        _, dp = good(dlogits, cache, dlosses)
        w = dp["layers"]["1"]["mlp"]["experts"]["down_proj"]
        dp["layers"]["1"]["mlp"]["experts"]["down_proj"] = w * 1.001
        return None, dp

    monkeypatch.setattr(objective.lm, "backward", wrong)
    preset = presets.PRESETS["tiny"]
    corpus = data.load(data.TOPICS, window=16)
    cfg = preset.model(corpus.vocabulary.size, 16)
    with pytest.raises(GradientError, match="layers.1.mlp.experts.down_proj"):
        gradients.check(lm.init(np.random.default_rng(0), cfg), cfg, preset.settings, corpus.train)
    assert main(["train", "--preset", "tiny", "--out", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "down_proj" in err


def test_info_names_what_runs(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for part in ("pymoe ", "NumPy", "kernels", "BLAS", "core type", "OpenMP", "SIMD", "GPU", "faster"):
        assert part in out


def test_blas_without_threadpoolctl_says_the_same(monkeypatch):
    pytest.importorskip("threadpoolctl")
    with_it = info.blas()
    monkeypatch.setattr(info.importlib.util, "find_spec", lambda name: None)
    without = info.blas()
    if without["core"] is None:
        pytest.skip("NumPy's BLAS is not the OpenBLAS of its wheel")
    assert (without["core"], without["threads"]) == (with_it["core"], with_it["threads"])


def test_advice_follows_what_is_missing(monkeypatch):
    monkeypatch.setattr(info.blas_core, "wanted", lambda: "SkylakeX")
    monkeypatch.setattr(info, "blas", lambda: {"library": "x", "core": "Haswell", "threads": 1})
    monkeypatch.setattr(info.kernels, "compiled", lambda: False)
    monkeypatch.setattr(info.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(info.allocator, "unset", lambda: True)
    tips = info.advice()
    assert [tip.split(":")[0] for tip in tips] == [
        "matrix products",
        "kernels",
        "threads",
        "memory, in your own scripts",
    ]
    assert "export OPENBLAS_CORETYPE=SkylakeX" in tips[0]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_memory_advice_ends_when_the_variables_are_set(monkeypatch):
    for name in info.allocator.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    (tip,) = [tip for tip in info.advice() if tip.startswith("memory")]
    assert all(f"{name}={value}" in tip for name, value in info.allocator.ENVIRONMENT.items())
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    assert not any(tip.startswith("memory") for tip in info.advice())


def index_installs(source: str) -> list[str]:
    """Hints that would install a stranger: the package index gives this name to another project."""
    return re.findall(r"pip install [\"']?pymoe.*", source)


def test_no_hint_installs_from_the_package_index():
    for path in Path(pymoe.__file__).parent.rglob("*.py"):
        assert index_installs(path.read_text(encoding="utf-8")) == [], path
    assert index_installs("pip install 'pymoe[plot]'") and index_installs("pip install pymoe again")


def test_version_and_help(capsys):
    assert main(["--version"]) == 0 and main([]) == 0
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0 and "--resume" in capsys.readouterr().out


def test_python_m_pymoe_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "pymoe", "--version"], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("pymoe ")
