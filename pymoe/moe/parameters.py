"""The parameter tree of one layer: names and shapes from the settings, the first values, and the check of what comes.

=============================== ============================== ====================================================
name                            shape                          when
=============================== ============================== ====================================================
router.<...>                                                   see ``router_parameters``
experts.gate_up_proj            (E, 2F, L)                     ``gated``, the gate first; tied: G in the place of E
experts.up_proj                 (E, F, L)                      not ``gated``
experts.down_proj               (E, L, F)
experts.post_norm               (L,)                           ``post_expert_norm``, one for all experts
latent.pre_proj                 (L, D)                         ``d_latent > 0``
latent.pre_norm                 (L,)                           ``latent_norm``
latent.post_proj                (D, L)                         ``d_latent > 0``
null.weight                     (C, 2, D)                      C "constant" ones among ``router.null_experts``
null.vector                     (C, D)
shared.<gate_up_proj, ...>      without E, F = d_shared, L = D ``d_shared > 0``
shared.gate                     (1, D)                         ``shared == "gated"``
output.norm                     (D,)                           ``output_norm``
output.bias                     (D,)                           ``output_bias``
<...>_proj_bias                 without the last axis          ``bias``, ``shared_bias``, ``latent_bias``
=============================== ============================== ====================================================

L is d_latent, or D where there is no latent space.  The matrices of the experts and of the shared one may be a
``storage.Weight`` of that shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pymoe.backend import tree
from pymoe.backend.errors import DtypeError, ShapeError, check_shape
from pymoe.moe import router_parameters
from pymoe.moe.config import MoEConfig
from pymoe.moe.experts import names
from pymoe.storage import Weight

BRANCHES = ("router", "experts", "latent", "null", "shared", "output")  # in the order of the tree


def shapes(cfg: MoEConfig) -> dict[str, tuple[int, ...]]:
    """Dotted name -> shape of every parameter, in the order of the tree.

    >>> from pymoe import presets
    >>> shapes(presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2))
    {'router.weight': (4, 5), 'experts.gate_up_proj': (4, 12, 5), 'experts.down_proj': (4, 5, 6)}
    """
    d = cfg.d_model
    found = {f"router.{name}": shape for name, shape in router_parameters.shapes(cfg.router, d).items()}
    _feed_forward(found, "experts", (cfg.n_stored,), cfg.d_expert, cfg.d_ff, cfg.gated, cfg.bias)
    if cfg.post_expert_norm is not None:
        found["experts.post_norm"] = (cfg.d_expert,)
    if cfg.d_latent:
        latent = cfg.d_latent
        found["latent.pre_proj"] = (latent, d)
        if cfg.latent_bias:
            found["latent.pre_proj_bias"] = (latent,)
        if cfg.latent_norm is not None:
            found["latent.pre_norm"] = (latent,)
        found["latent.post_proj"] = (d, latent)
        if cfg.latent_bias:
            found["latent.post_proj_bias"] = (d,)
    constants = cfg.router.null_experts.count("constant")
    if constants:
        found["null.weight"] = (constants, 2, d)
        found["null.vector"] = (constants, d)
    if cfg.d_shared:
        _feed_forward(found, "shared", (), d, cfg.d_shared, cfg.form_of_shared.gated, cfg.bias_of_shared)
        if cfg.shared == "gated":
            found["shared.gate"] = (1, d)
    if cfg.output_norm is not None:
        found["output.norm"] = (d,)
    if cfg.output_bias:
        found["output.bias"] = (d,)
    return found


def _feed_forward(
    found: dict[str, tuple[int, ...]], branch: str, lead: tuple[int, ...], d: int, f: int, gated: bool, bias: bool
) -> None:
    """The matrices of one feed-forward network, or of a stack of them."""
    up, down = names(gated)
    wide = 2 * f if gated else f
    found[f"{branch}.{up}"] = (*lead, wide, d)
    found[f"{branch}.{down}"] = (*lead, d, f)
    if bias:
        found[f"{branch}.{up}_bias"] = (*lead, wide)
        found[f"{branch}.{down}_bias"] = (*lead, d)


def init(rng: np.random.Generator, cfg: MoEConfig, dtype: Any = np.float64) -> dict[str, Any]:
    """Parameters as a nested dict of NumPy arrays: normal with std 1/√fan_in, biases 0, norms 1.

    >>> from pymoe import presets
    >>> p = init(np.random.default_rng(0), presets.mixtral(d_model=5, d_ff=6, n_experts=4, k=2))
    >>> {name: a.shape for name, a in p["experts"].items()}
    {'gate_up_proj': (4, 12, 5), 'down_proj': (4, 5, 6)}
    """
    return tree.unflatten(
        {
            name: router_parameters.first(rng, name.removeprefix("router."), shape, cfg.router, dtype)
            if name.startswith("router.")
            else np.zeros(shape, dtype)
            if name.endswith("bias")
            else np.ones(shape, dtype)
            if name.endswith("norm")
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
        if isinstance(flat[name], Weight) and not _may_be_stored(name):
            raise DtypeError(f"only the matrices of experts may be stored weights; {name} must be an array: w.dense()")


def _may_be_stored(name: str) -> bool:
    return name.split(".")[0] in ("experts", "shared") and name.endswith("_proj")
