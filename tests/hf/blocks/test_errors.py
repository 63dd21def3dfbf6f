"""What is wrong with a config or a state dict is said by name; what is right is not copied."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pymoe import hf, moe
from pymoe.backend import tree
from pymoe.backend.errors import CheckpointError, ConfigError, ShapeError
from pymoe.hf import blocks

MIXTRAL = {
    "model_type": "mixtral", "hidden_size": 8, "intermediate_size": 5, "num_local_experts": 6, "num_experts_per_tok": 3,
}  # fmt: skip
GPT_OSS = MIXTRAL | {"model_type": "gpt_oss"}


def state(raw: dict[str, Any] = MIXTRAL) -> tuple[dict[str, Any], Any]:
    cfg = hf.config(raw)
    return hf.dump(moe.init(np.random.default_rng(0), cfg), cfg), cfg


def changed(arrays: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    left = {n: a for n, a in arrays.items() if n != name}
    return left if value is None else left | {name: value}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gate.weight", lambda a: None, "no tensor gate.weight"),
        ("gate.weight", lambda a: a[:5], r"gate.weight has shape \(5, 8\), the settings say \(6, 8\)"),
        ("experts.down_proj", lambda a: np.swapaxes(a, 1, 2), "experts.down_proj has .* its transpose"),
        ("experts.down_proj", lambda a: a.astype(np.int8), "experts.down_proj holds int8, .* quantised"),
        ("gate.wait", lambda a: np.ones(3), "a block of mixtral does not: gate.wait"),
    ],
)
def test_a_tensor_that_is_wrong_is_named(name: str, change: Any, message: str) -> None:
    arrays, cfg = state()
    with pytest.raises(CheckpointError, match=message):
        hf.load(changed(arrays, name, change(arrays.get(name))), cfg)


def test_a_prefix_is_part_of_the_names_in_both_directions() -> None:
    arrays, cfg = state()
    at = "model.layers.3.mlp."
    longer = {at + n: a for n, a in arrays.items()} | {"model.norm.weight": np.ones(8)}
    p = hf.load(longer, cfg, prefix=at)
    assert set(hf.dump(p, cfg, prefix=at)) == {at + n for n in arrays}
    with pytest.raises(CheckpointError, match="no tensor model.layers.4.mlp.gate.weight"):
        hf.load(longer, cfg, prefix="model.layers.4.mlp.")


def test_what_lies_as_here_is_not_copied() -> None:
    arrays, cfg = state()
    for a in arrays.values():
        a.flags.writeable = False
    p = hf.load(arrays, cfg)
    assert np.shares_memory(p["router"]["weight"], arrays["gate.weight"])
    assert np.shares_memory(p["experts"]["down_proj"], arrays["experts.down_proj"])
    arrays, cfg = state(GPT_OSS)
    assert np.shares_memory(hf.load(arrays, cfg)["experts"]["down_proj"], arrays["experts.down_proj"])


def test_half_precision_is_read_as_float32_and_a_dtype_can_be_asked_for() -> None:
    arrays, cfg = state()
    for kind in (ml_dtypes.bfloat16, np.float16):
        p = hf.load({n: a.astype(kind) for n, a in arrays.items()}, cfg)
        assert {a.dtype for a in tree.flatten(p).values()} == {np.dtype(np.float32)}
        assert np.array_equal(p["router"]["weight"], arrays["gate.weight"].astype(kind).astype(np.float32))
    asked = hf.load(arrays, cfg, dtype=np.float32)
    assert {a.dtype for a in tree.flatten(asked).values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", blocks.FAMILIES)
def test_a_tree_survives_the_way_there_and_back(name: str) -> None:
    """Every family at its sizes made small: what dump writes, load reads back, bit for bit."""
    from tests.hf.blocks.test_vectors import ROWS

    row = next(r for n, r in ROWS.items() if blocks.FAMILIES[name].name == name and n.startswith(name))
    cfg = hf.config(row["config"], part=row["part"], layer=row["layer"])
    p = blocks.module_of(cfg).init(np.random.default_rng(1), cfg)
    again = hf.load(hf.dump(p, cfg), cfg)
    for n, a in tree.flatten(p).items():
        assert np.allclose(tree.flatten(again)[n], a, rtol=0, atol=4e-16 if name == "muse_spark" else 0), n


@pytest.mark.parametrize(
    ("raw", "more", "error", "message"),
    [
        ({"model_type": "bert"}, {}, ConfigError, "'bert' is no family with experts"),
        ({}, {}, ConfigError, "None is no family"),
        (MIXTRAL | {"num_experts": 8}, {}, ConfigError, "num_local_experts.*num_experts.*names of one setting"),
        (MIXTRAL | {"hidden_act": "mish"}, {}, ConfigError, "activation 'mish'"),
        (MIXTRAL, {"part": "vision"}, ConfigError, "has the parts main, not 'vision'"),
        (MIXTRAL | {"num_experts_per_tok": [2, 3]}, {}, ConfigError, "say which, layer=0"),
        (MIXTRAL | {"num_experts_per_tok": [2, 3]}, {"layer": 2}, ConfigError, r"layer must be in 0..1"),
        ({"model_type": "qwen3_vl_moe"}, {}, CheckpointError, "no 'text_config'"),
        ({"model_type": "deepseek_v2"}, {}, CheckpointError, "lacks num_experts_per_tok"),
        (3, {}, ConfigError, "a path, a dict or a config"),
    ],
    ids=str,
)  # fmt: skip
def test_a_config_that_is_wrong_is_refused_by_the_name_of_its_field(
    raw: Any, more: dict[str, Any], error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        hf.config(raw, **more)


def test_a_path_a_folder_and_a_dict_are_one(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    want = hf.config(MIXTRAL)
    assert hf.config(str(tmp_path)) == want and hf.config(tmp_path / "config.json") == want
    with pytest.raises(CheckpointError, match="no such file"):
        hf.config(str(tmp_path / "other.json"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        hf.config(str(tmp_path))


def test_settings_can_be_said_over_the_config_and_the_family_stays() -> None:
    cfg = hf.config(MIXTRAL, losses=("z",), k=2)
    assert cfg.router.losses == ("z",) and cfg.k == 2 and cfg.family == "mixtral"


def test_settings_of_no_family_and_trees_of_other_settings_are_refused() -> None:
    arrays, cfg = state()
    plain = moe.MoEConfig(8, 5, cfg.router)
    with pytest.raises(ConfigError, match="name no family"):
        hf.load(arrays, plain)  # type: ignore[arg-type]
    p = hf.load(arrays, cfg)
    with pytest.raises(ShapeError, match="lacks router.weight"):
        hf.dump({"experts": p["experts"]}, cfg)
    with pytest.raises(ShapeError, match="has shared.x"):
        hf.dump(p | {"shared": {"x": np.ones(3)}}, cfg)
    import dataclasses

    wider = dataclasses.replace(cfg, d_shared=3)
    with pytest.raises(ConfigError, match="mixtral has no place for shared"):
        hf.dump(moe.init(np.random.default_rng(0), wider), wider)


def test_a_tensor_that_has_no_numpy_array_is_named() -> None:
    torch = pytest.importorskip("torch")
    arrays, cfg = state()
    given = changed(arrays, "gate.weight", torch.zeros(6, 8, dtype=torch.bfloat16))
    with pytest.raises(CheckpointError, match="tensor x.gate.weight of type Tensor has no NumPy array"):
        hf.load({f"x.{name}": a for name, a in given.items()}, cfg, prefix="x.")
