"""The parameter tree of one layer: names and shapes from the settings, the first values, and the check of what comes.

=============================== ============================== ====================================================
name                            shape                          when
=============================== ============================== ====================================================
router.weight                   (E, D)
router.bias                     (E,)                           ``router.bias``
router.selection_bias           (E,)                           ``router.selection_bias``
router.noise_weight             (E, D)                         ``router.noise == "learned"``
experts.gate_up_proj            (E, 2F, D)                     ``gated``, the gate first; tied: G in the place of E
experts.up_proj                 (E, F, D)                      not ``gated``
experts.down_proj               (E, D, F)
shared.<the same>               without E, F = d_shared        ``d_shared > 0``
<...>_proj_bias                 without the last axis          ``bias``
=============================== ============================== ====================================================

The matrices of the experts and of the shared one may be a ``storage.Weight`` of that shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pymoe.backend import tree
from pymoe.backend.errors import DtypeError, ShapeError, check_shape
from pymoe.moe.config import MoEConfig
from pymoe.moe.experts import names
from pymoe.storage import Weight


def shapes(cfg: MoEConfig) -> dict[str, tuple[int, ...]]:
    """Dotted name -> shape of every parameter, in the order of the tree.

    >>> from pymoe import presets
    >>> shapes(presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2))
    {'router.weight': (4, 5), 'experts.gate_up_proj': (4, 12, 5), 'experts.down_proj': (4, 5, 6)}
    """
    d, e, router = cfg.d_model, cfg.n_experts, cfg.router
    found: dict[str, tuple[int, ...]] = {"router.weight": (e, d)}
    if router.bias:
        found["router.bias"] = (e,)
    if router.selection_bias:
        found["router.selection_bias"] = (e,)
    if router.noise == "learned":
        found["router.noise_weight"] = (e, d)
    up, down = names(cfg.gated)
    branches: list[tuple[str, tuple[int, ...], int]] = [("experts", (cfg.n_stored,), cfg.d_ff)]
    if cfg.d_shared:
        branches.append(("shared", (), cfg.d_shared))
    for branch, lead, f in branches:
        wide = 2 * f if cfg.gated else f
        found[f"{branch}.{up}"] = (*lead, wide, d)
        found[f"{branch}.{down}"] = (*lead, d, f)
        if cfg.bias:
            found[f"{branch}.{up}_bias"] = (*lead, wide)
            found[f"{branch}.{down}_bias"] = (*lead, d)
    return found


def init(rng: np.random.Generator, cfg: MoEConfig, dtype: Any = np.float64) -> dict[str, Any]:
    """Parameters as a nested dict of NumPy arrays: normal with std 1/√fan_in, biases and noise weights 0.

    >>> from pymoe import presets
    >>> p = init(np.random.default_rng(0), presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2))
    >>> {name: a.shape for name, a in p["experts"].items()}
    {'gate_up_proj': (4, 12, 5), 'down_proj': (4, 5, 6)}
    """
    return tree.unflatten(
        {
            name: np.zeros(shape, dtype)
            if name.endswith(("bias", "noise_weight"))
            else (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(dtype)
            for name, shape in shapes(cfg).items()
        }
    )


def check(p: Mapping[str, Any], cfg: MoEConfig) -> None:
    """ShapeError unless p has exactly the names and shapes that the settings ask for."""
    expected, flat = shapes(cfg), tree.flatten(p)
    if flat.keys() != expected.keys():
        raise ShapeError(
            "the parameters are not those of these settings: "
            f"missing {sorted(expected.keys() - flat.keys())}, unexpected {sorted(flat.keys() - expected.keys())}"
        )
    for name, shape in expected.items():
        if tuple(flat[name].shape) != shape:
            check_shape(name, flat[name], shape)
        if isinstance(flat[name], Weight) and not name.endswith("_proj"):
            raise DtypeError(f"only the matrices of experts may be stored weights; {name} must be an array: w.dense()")
