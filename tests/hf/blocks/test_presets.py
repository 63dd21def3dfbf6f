"""Every family has a preset: small on demand, what follows from a size follows, and it runs in both directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe import hf
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError
from pymoe.hf import blocks
from pymoe.moe import Given

SIZES: dict[str, Any] = {"d_model": 8, "d_ff": 5, "n_experts": 16, "k": 4}
OTHER = {  # what a family fixes, or asks for besides
    "zaya": {"k": 1}, "phimoe": {"k": 2}, "switch_transformers": {"k": 1}, "nllb_moe": {"k": 2}, "doge": {"d_ff": 1},
    "deepseek_v4.hash": {"table_size": 11}, "qwen3_omni_moe.talker": {"d_shared": 7},
}  # fmt: skip


@pytest.mark.parametrize("name", blocks.FAMILIES)
def test_a_preset_runs(name: str) -> None:
    cfg = hf.preset(name, **(SIZES | OTHER.get(name, {})))
    run = blocks.module_of(cfg)
    p = run.init(np.random.default_rng(0), cfg)
    x = np.random.default_rng(1).standard_normal((3, 8))
    given = {"given": Given(token_ids=np.array([3, 0, 10]))} if name == "deepseek_v4.hash" else {}
    out, cache = run.forward(x, p, cfg, **given)
    dx, dp, *_ = run.backward(np.ones_like(x), cache)
    assert out.y.shape == dx.shape == x.shape and tree.flatten(dp).keys() == tree.flatten(p).keys()
    assert np.isfinite(out.y).all() and np.any(dx)
    assert set(hf.dump(p, cfg)), name
    assert (cfg.d_model, cfg.n_experts, cfg.family) == (8, 16, name)


def test_what_follows_from_a_size_follows() -> None:
    cfg = hf.preset("deepseek_v3", **SIZES)
    assert isinstance(cfg, blocks.BlockConfig)
    assert (cfg.d_shared, cfg.router.n_group, cfg.router.topk_group, cfg.router.scale) == (5, 8, 4, 2.5)


def test_the_published_sizes_are_the_defaults() -> None:
    for name, sizes in {
        "mixtral": (4096, 14336, 8, 2),
        "qwen3_moe": (2048, 768, 128, 8),
        "flint": (2048, 512, 256, 6),
    }.items():
        cfg = hf.preset(name)
        assert isinstance(cfg, blocks.BlockConfig) and (cfg.d_model, cfg.d_ff, cfg.n_experts, cfg.k) == sizes


def test_no_family_of_that_name() -> None:
    with pytest.raises(ConfigError, match="'mixtrall' is no family"):
        hf.preset("mixtrall")
