r"""How the router of experts that were never trained together starts: one row of W_r for each expert.

================ ============================================================================ =======================
rule             row e                                                                        looks at
================ ============================================================================ =======================
random           N(0, std²)                                                                   nothing
uniform_random   U(-1/√D, 1/√D)                                                               nothing
hidden           v / ‖v‖₂,  v = mean of the states h of text for e  (- mean of text against e)  the layer's input
cheap_embed      the same with the embeddings of the text's tokens for h                      the embedding table
fitted           argmin_w Σ_t (x_t·w + b - m_te)² + ridge ‖w‖²,  m_te = Σ_{f ∈ e} |h_tf|   inputs and hidden units
================ ============================================================================ =======================

``hidden`` and ``cheap_embed`` give one row, for the text of one expert: stack them.  Padding is left out of the mean;
the tool these rules come from averages it in (its ``hidden`` mode divides by the padded length), so that there the row
depends on what else was in the batch.  ``fitted`` is the linear form of MoEfication's selector, which learns to predict
how much of the activation each expert holds.

Sources: mergekit-moe's gate modes (``mergekit/moe/router.py``); Zhang et al., *MoEfication*, arXiv:2110.01786,
section 3.3 (there an MLP, and the sum of the positive h of ReLU; here least squares, in closed form).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.linalg

from pymoe.backend import namespace, to_numpy
from pymoe.backend.errors import ConfigError, DataError, DtypeError, check_integer, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.nn import initial
from pymoe.sharing import inputs


def random(rng: np.random.Generator, n_experts: int, d_model: int, *, std: float = 0.02) -> np.ndarray:
    """(E, D) of N(0, std²), float64.

    >>> random(np.random.default_rng(0), 2, 3).round(3)
    array([[ 0.003, -0.003,  0.013],
           [ 0.002, -0.011,  0.007]])
    """
    initial.check_std("the router", std=std)
    shape = check_integer("n_experts", n_experts), check_integer("d_model", d_model)
    return rng.standard_normal(shape) * std


def uniform_random(rng: np.random.Generator, n_experts: int, d_model: int) -> np.ndarray:
    """(E, D) of U(-1/√D, 1/√D), float64.

    >>> bool((np.abs(uniform_random(np.random.default_rng(0), 5, 16)) <= 0.25).all())
    True
    """
    shape = check_integer("n_experts", n_experts), check_integer("d_model", d_model)
    bound = 1 / math.sqrt(d_model)
    return rng.uniform(-bound, bound, shape)


def hidden(states: Array, mask: Array | None = None, negative: Any = None) -> Array:
    """(D,) the unit vector along the mean state of an expert's text, less that of the text against it.

    states (..., D); mask (...) bool, True = a real token (None: all).  negative: the states against the expert, all
    real, or a pair (states, mask).  Where the two means are equal nothing is left to normalise: the row is 0.  Text
    without a real token is a DataError.

    >>> hidden(np.array([[3.0, 0.0], [3.0, 8.0], [99.0, 99.0]]), np.array([True, True, False]))
    array([0.6, 0.8])
    >>> hidden(np.array([[3.0, 4.0]]), negative=(np.array([[3.0, 2.0], [9.0, 9.0]]), np.array([True, False])))
    array([0., 1.])
    """
    v = _mean("states", states, mask)
    if negative is not None:
        other, other_mask = negative if isinstance(negative, tuple) else (negative, None)
        v = v - _mean("negative", other, other_mask)
    xp = namespace(v)
    largest = xp.max(xp.abs(v))
    if not float(largest):
        return xp.astype(v, states.dtype)
    v = v / largest  # no square overflows or vanishes
    return xp.astype(v / xp.sqrt(xp.sum(v * v)), states.dtype)


def cheap_embed(embedding: Array, ids: Array, mask: Array | None = None, negative: Any = None) -> Array:
    """(D,) ``hidden`` of the embeddings embedding[ids]: no forward pass, the same row for every layer.

    embedding (V, D), ids (...) in [0, V); negative: the ids against the expert, or a pair (ids, mask).

    >>> table = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    >>> cheap_embed(table, np.array([1, 2, 0]), np.array([True, True, False]))
    array([0.6, 0.8])
    """

    def states(name: str, ids: Array) -> Array:
        checks.index(name, ids, int(embedding.shape[0]))
        xp = namespace(embedding, ids)
        return xp.reshape(xp.take(embedding, xp.reshape(ids, (-1,)), axis=0), (*ids.shape, embedding.shape[1]))

    check_shape("embedding", embedding, (None, None))
    if negative is not None:
        other, other_mask = negative if isinstance(negative, tuple) else (negative, None)
        negative = states("negative", other), other_mask
    return hidden(states("ids", ids), mask, negative)


def fitted(x: Array, h: Array, groups: np.ndarray, *, ridge: float = 1e-3) -> np.ndarray:
    """(E, D) rows that predict by least squares how much activation each group of hidden units will hold.

    x (T, D) inputs of the layer, h (T, F) its hidden units at x, groups (E, F/E) as of ``split.partition``.  With
    X and M centred over the tokens, W = (XᵀX + λ I)⁻¹ XᵀM, λ = ridge · trace(XᵀX) / D, ridge > 0.  M is divided by its
    largest standard deviation: that changes no rank.  The fitted constants b are left out, so that an expert is chosen
    for saying more than it usually says, and not because it always says much.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((9000, 2))
    >>> np.abs(fitted(x, np.maximum(x, 0), np.array([[0], [1]]))).round(1)  # unit f is on where x_f is
    array([[0.9, 0. ],
           [0. , 0.9]])
    """
    x, h = to_numpy(x).astype(np.float64), to_numpy(h).astype(np.float64)
    check_shape("x", x, (None, None))
    check_shape("h", h, (x.shape[0], None))
    inputs.finite("x", x)
    inputs.finite("h", h)
    if not (isinstance(ridge, (int, float)) and 0 < ridge < math.inf):
        raise ConfigError(f"ridge must be a positive finite number, got {ridge!r}")
    if x.shape[0] < 2:
        raise DataError(f"a router cannot be fitted to {x.shape[0]} tokens: give at least 2, better many times D")
    held = np.abs(h)
    m = np.stack([held[:, units].sum(1) for units in groups], axis=1)  # (T, E)
    x, m = x - x.mean(0), m - m.mean(0)
    gram = x.T @ x
    spread = float(np.max(m.std(0))) or 1.0
    lam = ridge * float(np.trace(gram)) / gram.shape[0] or 1.0  # all tokens equal: nothing to learn, rows of 0
    rows: np.ndarray = scipy.linalg.solve(gram + lam * np.eye(gram.shape[0]), x.T @ (m / spread), assume_a="pos").T
    return rows


def _mean(name: str, states: Array, mask: Array | None) -> Array:
    """(D,) the mean over the real tokens, in double precision."""
    checks.floating(name, states)
    xp = namespace(states, mask)
    d = int(states.shape[-1])
    rows = xp.reshape(states, (-1, d))
    if mask is not None:
        if not xp.isdtype(mask.dtype, "bool"):
            raise DtypeError(f"the mask of {name} must be bool, True = a real token, got {mask.dtype}")
        check_shape(f"the mask of {name}", mask, tuple(states.shape[:-1]))
        rows = rows[xp.reshape(mask, (-1,))]
    if int(rows.shape[0]) == 0:
        raise DataError(f"{name} has no real token: a gate needs at least one; give text for each expert")
    inputs.finite(name, rows)
    return xp.mean(xp.astype(rows, xp.float64), axis=0)
