"""What the page of conformance says, measured: the oracles of the tests, run on every named rule and stored block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pymoe.hf import blocks as hf_blocks
from pymoe.verify import explain
from pymoe.verify.conformance.rows import Block, Defect, Measured
from tests.hf.blocks import test_vectors
from tests.hf.blocks.make_vectors import NUMBERS

from . import defects as defects_
from .layers import layer
from .presets import preset

MADE = test_vectors.DOCUMENT["made"]


def _entries(only: str) -> list[explain.Entry]:
    return [e for e in explain.entries() if e.kind != "model" and only in e.name]


def _rows(only: str) -> dict[str, Any]:
    return {name: row for name, row in test_vectors.ROWS.items() if only in name}


def count_rules(only: str = "") -> int:
    return len(_entries(only))


def count_blocks(only: str = "") -> int:
    return len(_rows(only))


def rules(only: str = "") -> Iterator[Measured]:
    """A preset by the loops of router and experts; a layer of its own by what its tests compare."""
    for e in _entries(only):
        forward, gradient, loop = preset(e) if e.kind == "preset" else layer(e)
        yield Measured(e.name, e.kind, ", ".join(e.sources) or "-", forward, gradient, loop, _oracle(e.name))


def _oracle(name: str) -> str:
    """The families of transformers that this rule reproduces."""
    found = sorted(f for f in hf_blocks.FAMILIES if name in (f, _alias(f)))
    return "transformers: " + ", ".join(f"`{f}`" for f in found) if found else ""


def _alias(family: str) -> str:
    return {
        "phimoe": "sparse_mixer", "doge": "product_keys", "switch_transformers": "switch", "ernie4_5_moe": "ernie",
        "longcat_flash": "longcat", "kolibri1": "logit_bias", "deepseek_v4.hash": "hash_layer",
        "minimax_m2": "sigmoid_bias", "jetmoe": "moa",
    }.get(family, family)  # fmt: skip


def blocks(only: str = "") -> Iterator[Block]:
    """Every stored block of transformers."""
    with np.load(NUMBERS) as stored:
        for name, row in _rows(only).items():
            found = test_vectors.errors(row, test_vectors.result_of(row, stored[name]))
            cfg = hf_blocks.config(row["config"], part=row["part"], layer=row["layer"])
            grads = {n: e for n, e in found.items() if n == "dx" or n.startswith("d ")}
            losses = [found[n] for n in ("aux", "aux dx") if n in found]
            rest = [found[n] for n in ("y", "weight", "logits")]
            loss = max(losses) if losses else None
            yield Block(name, cfg.family, _sizes(cfg), max(rest), max(grads.values()), len(grads), loss)


def _sizes(cfg: Any) -> str:
    k = getattr(cfg, "k", None) or cfg.router.k
    return f"E {cfg.n_experts}, k {k}, D {cfg.d_model}, F {cfg.d_ff}"


def defects() -> list[Defect]:
    return list(defects_.DEFECTS)


def made() -> dict[str, str]:
    """Who computed the stored numbers."""
    return {f"stored numbers: {name}": str(MADE[name]) for name in ("transformers", "torch") if name in MADE}
