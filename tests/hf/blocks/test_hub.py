"""Published files: every family saved as transformers saves it is read back, mapped, and one expert at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from pymoe import hf
from pymoe.backend import tree
from pymoe.backend.errors import CheckpointError, ConfigError, IndexRangeError
from pymoe.hf import blocks
from pymoe.hf.blocks.mapped import Mapped
from tests.hf.blocks.test_vectors import ROWS, result_of, stored  # noqa: F401

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.hf.blocks.hub_names import saved  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
CLASSES = {"dots3_note": "Dots3NoteTextModel", "unlimited_ocr": "UnlimitedOcrTextModel"}  # under these names instead


def block(name: str, stored: Any) -> tuple[Any, dict[str, np.ndarray], list[str]]:  # noqa: F811
    row = ROWS[name]
    cfg = hf.config(row["config"], part=row["part"], layer=row["layer"])
    state = result_of(row, stored[name]).state
    own = [CLASSES[name]] if name in CLASSES else [row["config"]["model_type"]]
    return cfg, state, own + list(blocks.FAMILIES[cfg.family].types)


def written(path: Path, tensors: dict[str, np.ndarray]) -> str:
    save_file({n: np.ascontiguousarray(a) for n, a in tensors.items()}, path)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_a_block_is_read_from_the_files_that_transformers_writes(name: str, stored: Any, tmp_path: Path) -> None:  # noqa: F811
    cfg, state, kind = block(name, stored)
    made = saved(name, kind, state)
    if name == "dbrx":
        made = {n.replace("model.layers", "transformer.blocks"): a for n, a in made.items()}
    path = written(tmp_path / "m.safetensors", made | {"model.norm.weight": np.ones(3)})
    want, got = (tree.flatten(p) for p in (hf.load(state, cfg), hf.load(path, cfg, layer=1)))
    assert want.keys() == got.keys()
    for n, a in want.items():
        assert np.array_equal(got[n], a), n
    alone = tree.flatten(blocks.expert(path, cfg, 2, layer=1))
    for n, a in alone.items():
        assert np.array_equal(a[0], want[n][2]), n
    stacks = {n for n, a in want.items() if n.startswith("experts.") and a.ndim > 1}
    assert set(alone) == stacks


def test_what_can_stay_in_the_file_does(stored: Any, tmp_path: Path) -> None:  # noqa: F811
    cfg, state, kind = block("mistral4", stored)
    p = hf.load(written(tmp_path / "m.safetensors", saved("mistral4", kind, state)), cfg, layer=1)
    for a in (p["experts"]["down_proj"], p["router"]["weight"]):
        while not isinstance(a, np.memmap):
            assert isinstance(a, np.ndarray), "the numbers were copied out of the file"
            a = a.base
    with pytest.raises(ValueError, match="read-only"):
        p["experts"]["down_proj"][0, 0, 0] = 1


def test_a_stack_that_some_files_turn_is_told_by_its_shape(stored: Any, tmp_path: Path) -> None:  # noqa: F811
    cfg, state, kind = block("qwen3_vl_moe", stored)
    made = saved("qwen3_vl_moe", kind, state)
    turned = {n: np.swapaxes(a, 1, 2) if "experts" in n else a for n, a in made.items()}
    want = tree.flatten(hf.load(state, cfg))
    for name, tensors in (("one", made), ("other", turned)):
        path = written(tmp_path / name, tensors)
        for n, a in tree.flatten(hf.load(path, cfg, layer=1)).items():
            assert np.array_equal(a, want[n]), (name, n)
        assert np.array_equal(
            blocks.expert(path, cfg, 2, layer=1)["experts"]["down_proj"][0], want["experts.down_proj"][2]
        )


def test_several_files_and_bfloat16(stored: Any, tmp_path: Path) -> None:  # noqa: F811
    cfg, state, kind = block("mixtral", stored)
    tensors = {n: a.astype(ml_dtypes.bfloat16) for n, a in saved("mixtral", kind, state).items()}
    half = sorted(tensors)[::2]
    files = {"a.safetensors": half, "b.safetensors": [n for n in tensors if n not in half]}
    for file, names in files.items():
        written(tmp_path / file, {n: tensors[n] for n in names})
    where = {n: file for file, names in files.items() for n in names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    p = hf.load(tmp_path, cfg, layer=1)
    assert p["experts"]["gate_up_proj"].dtype == np.float32
    want = state["experts.gate_up_proj"].astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(p["experts"]["gate_up_proj"], want)


def test_a_square_stack_of_a_family_that_turns_them_is_refused(tmp_path: Path) -> None:
    """F = D / 2 and F = D cannot be told from their transposes: unsloth-zoo#849 and #913 turned them in silence."""
    raw = {"model_type": "qwen3_vl_moe_text", "hidden_size": 8, "num_local_experts": 3, "num_experts_per_tok": 2}
    for f, name in ((4, "gate_up_proj"), (8, "down_proj")):
        cfg = hf.config(raw | {"moe_intermediate_size": f})
        shapes = {"gate.weight": (3, 8), "experts.gate_up_proj": (3, 8, 2 * f), "experts.down_proj": (3, f, 8)}
        tensors = {f"model.language_model.layers.0.mlp.{n}": np.ones(s) for n, s in shapes.items()}
        with pytest.raises(CheckpointError, match=f"{name} is square"):
            hf.load(written(tmp_path / f"{f}.safetensors", tensors), cfg, layer=0)


def test_layers_of_another_name_are_read_with_their_prefix(stored: Any, tmp_path: Path) -> None:  # noqa: F811
    cfg, state, kind = block("switch_transformers", stored)
    at = "encoder.block.1.layer.1."
    made = {n.replace("model.layers.1.", at): a for n, a in saved("switch_transformers", kind, state).items()}
    path = written(tmp_path / "m.safetensors", made)
    with pytest.raises(CheckpointError, match="layers of another name; prefix= says"):
        hf.load(path, cfg, layer=1)
    want = tree.flatten(hf.load(state, cfg))
    assert all(np.array_equal(a, want[n]) for n, a in tree.flatten(hf.load(path, cfg, prefix=at)).items())


def test_what_is_wrong_with_the_files_is_named(stored: Any, tmp_path: Path) -> None:  # noqa: F811
    cfg, state, kind = block("mixtral", stored)
    tensors = saved("mixtral", kind, state)
    path = written(tmp_path / "m.safetensors", tensors)
    with pytest.raises(ConfigError, match="say which, layer=3"):
        hf.load(path, cfg)
    with pytest.raises(CheckpointError, match="0 tensors that end with 'layers.7.block_sparse_moe.gate.weight'"):
        hf.load(path, cfg, layer=7)
    with pytest.raises(IndexRangeError, match=r"expert must be in 0..5, got 6"):
        blocks.expert(path, cfg, 6, layer=1)
    with pytest.raises(CheckpointError, match="no such file"):
        hf.load(tmp_path / "other.safetensors", cfg, layer=1)
    missing = "model.layers.1.block_sparse_moe.experts.4.w2.weight"
    short = written(tmp_path / "short.safetensors", {n: a for n, a in tensors.items() if n != missing})
    with pytest.raises(CheckpointError, match=missing):
        hf.load(short, cfg, layer=1)
    wide = written(tmp_path / "wide.safetensors", tensors | {missing: tensors[missing][:, :3]})
    with pytest.raises(CheckpointError, match=missing + r" has shape \(8, 3\)"):
        hf.load(wide, cfg, layer=1)
    twice = {n.replace("model.", "draft."): a for n, a in tensors.items()} | tensors
    with pytest.raises(CheckpointError, match="draft.layers.1., model.layers.1.; say which with prefix="):
        hf.load(written(tmp_path / "twice.safetensors", twice), cfg, layer=1)
    whole = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-8])
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        hf.load(tmp_path / "cut.safetensors", cfg, layer=1)
    (tmp_path / "no.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(CheckpointError, match="no safetensors file"):
        Mapped(tmp_path / "no.safetensors")
