r"""The dense feed-forward of a transformer block, a GLU or an MLP.

Forward::

    GLU   [g | u] = x gate_up_projᵀ,   h = act(g) ⊙ u,   y = h down_projᵀ
    MLP        z  = x up_projᵀ,        h = act(z),       y = h down_projᵀ       (+ biases where cfg.bias)

Backward, the same lines from bottom to top::

    dh = dy down_proj                                                ddown_proj = dyᵀ h
    GLU   d[g | u] = [dh ⊙ u ⊙ act'(g) | dh ⊙ act(g)],               dgate_up_proj = d[g | u]ᵀ x
    MLP        dz  = dh ⊙ act'(z),                                   dup_proj = dzᵀ x
    dx = d[g | u] gate_up_proj   or   dz up_proj

The names and the order of the halves are those of one expert of the MoE layer: {name: experts[name][e]} is a tree of
this layer, and (gated, activation) mean the same there.  Sources: Vaswani et al., arXiv:1706.03762, eq. 2; Shazeer,
arXiv:2002.05202, eq. 5 and 6.  Cost: 6 T D F flops forward for a GLU, 4 T D F for an MLP, twice that backward; kept: x,
the pre-activations and h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pymoe import kernels
from pymoe.backend.namespace import Array
from pymoe.kernels.activations import ACTIVATIONS
from pymoe.nn import initial, projection


@dataclass(frozen=True)
class FeedForwardConfig:
    """Width d_model -> d_ff -> d_model.

    gated, activation   GLU: down(act(gate x) ⊙ up x), or MLP: down(act(up x)); names of ``kernels.activations``
    bias                biases on both matrices
    std, out_std        start of the first matrix, and of down_proj (None: ``std``)
    """

    d_model: int
    d_ff: int
    gated: bool = True
    activation: str = "silu"
    bias: bool = False
    std: float = 0.02
    out_std: float | None = None

    def __post_init__(self) -> None:
        initial.check_sizes("FeedForwardConfig", d_model=self.d_model, d_ff=self.d_ff)
        initial.check_one_of("FeedForwardConfig.activation", self.activation, tuple(sorted(ACTIVATIONS)))
        initial.check_std("FeedForwardConfig", std=self.std, out_std=self.out_std)

    @property
    def up_name(self) -> str:
        """The name of the first matrix."""
        return "gate_up_proj" if self.gated else "up_proj"


class Cache(NamedTuple):
    cfg: FeedForwardConfig
    c_up: projection.Cache  # x (..., D) and the first matrix
    z: Array  # (..., 2F) [g | u], or (..., F): the pre-activations
    c_down: projection.Cache  # h (..., F) and down_proj


def init(rng: np.random.Generator, cfg: FeedForwardConfig, dtype: Any = np.float32) -> dict[str, Any]:
    """The parameters at their start.

    >>> p = init(np.random.default_rng(0), FeedForwardConfig(d_model=3, d_ff=4))
    >>> p["gate_up_proj"].shape, p["down_proj"].shape
    ((8, 3), (3, 4))
    """
    out_std = cfg.std if cfg.out_std is None else cfg.out_std
    width = 2 * cfg.d_ff if cfg.gated else cfg.d_ff
    up = projection.init(rng, cfg.up_name, (width, cfg.d_model), cfg.std, cfg.bias, dtype)
    return up | projection.init(rng, "down_proj", (cfg.d_model, cfg.d_ff), out_std, cfg.bias, dtype)


def forward(x: Array, p: dict[str, Any], cfg: FeedForwardConfig) -> tuple[Array, Cache]:
    """x (..., D) -> y (..., D).

    >>> p = {"up_proj": np.array([[1.0], [-1.0]]), "down_proj": np.array([[2.0, 3.0]])}
    >>> forward(np.array([[5.0], [-7.0]]), p, FeedForwardConfig(1, 2, gated=False, activation="relu"))[0]
    array([[10.],
           [21.]])
    """
    z, c_up = projection.forward(x, p, cfg.up_name)  # [g | u] (..., 2F), or z (..., F)
    k = kernels.of(z)
    h = k.glu_forward(z, cfg.activation) if cfg.gated else k.act_forward(z, cfg.activation)  # (..., F)
    y, c_down = projection.forward(h, p, "down_proj")  # (..., D)
    return y, Cache(cfg, c_up, z, c_down)


def backward(dy: Array, cache: Cache) -> tuple[Array, dict[str, Any]]:
    """dy (..., D) -> dx (..., D), dp with the names of ``init``."""
    cfg, c_up, z, c_down = cache
    k = kernels.of(z)
    dh, d_down = projection.backward(dy, c_down, "down_proj")
    dz = k.glu_backward(dh, z, cfg.activation) if cfg.gated else k.act_backward(dh, z, cfg.activation)
    dx, d_up = projection.backward(dz, c_up, cfg.up_name)
    return dx, d_up | d_down
