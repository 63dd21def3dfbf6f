"""The parameters of a router: names and shapes from the settings, and the first values.

=============================== ============================== ====================================================
name                            shape                          when
=============================== ============================== ====================================================
weight                          (n_logits, D)                  always: a row for each expert, null expert and jointly
                                                               weighted shared expert
bias                            (n_logits,)                    ``bias``
selection_bias                  (n_ids,)                       ``selection_bias``; no gradient
noise_weight                    (n_ids, D)                     ``noise == "learned"``
input_scale                     (D,)                           ``input_norm``
global_scale                    (1,)                           ``global_scale``
expert_scale                    (n_ids,)                       ``expert_scale``
table                           (table_size, K) int64          ``select == "table"``; no gradient
=============================== ============================== ====================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pymoe.moe.router_config import RouterConfig


def shapes(cfg: RouterConfig, d_model: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape, in the order of the tree.

    >>> shapes(RouterConfig(n_experts=4, k=2, bias=True, input_norm="rms"), 5)
    {'weight': (4, 5), 'bias': (4,), 'input_scale': (5,)}
    """
    wanted = {
        "bias": ((cfg.n_logits,), cfg.bias),
        "selection_bias": ((cfg.n_ids,), cfg.selection_bias),
        "noise_weight": ((cfg.n_ids, d_model), cfg.noise == "learned"),
        "residual_weight": ((cfg.n_ids, cfg.n_ids), cfg.gate_residual),
        "input_scale": ((d_model,), cfg.input_norm is not None),
        "global_scale": ((1,), cfg.global_scale),
        "expert_scale": ((cfg.n_ids,), cfg.expert_scale),
        "table": ((cfg.table_size, cfg.k), cfg.select == "table"),
    }
    return {"weight": (cfg.n_logits, d_model)} | {name: shape for name, (shape, used) in wanted.items() if used}


def first(rng: np.random.Generator, name: str, shape: tuple[int, ...], cfg: RouterConfig, dtype: Any) -> np.ndarray:
    """The first value of one parameter: normal with std 1/√D, biases and noise 0, scales 1, distinct experts a row."""
    if name == "table":
        order = np.argsort(rng.random((shape[0], cfg.n_ids)), axis=1, kind="stable")
        return np.asarray(order[:, : cfg.k], np.int64)
    if name == "weight":
        return np.asarray(rng.standard_normal(shape) / np.sqrt(shape[-1]), dtype)
    return np.full(shape, 1.0 if name.endswith("scale") else 0.0, dtype)
