r"""How much a layer would miss each expert, from statistics of calibration tokens: (E,) scores, larger = keep.

==================== ========================================== =======================================================
score                formula                                    source
==================== ========================================== =======================================================
frequency            \|R_e\|                                    how often it was chosen; REAP's baseline
weighted_frequency   Σ_{R_e} g                                  "soft" counts (MC-SMoE, arXiv:2310.01334)
ean_sum              Σ_{R_e} ‖f_e(x)‖₂                          expert activation norm (arXiv:2504.05586)
ean_mean             mean over R_e of ‖f_e(x)‖₂                 the same
reap                 mean over R_e of g ‖f_e(x)‖₂               arXiv:2510.13999
==================== ========================================== =======================================================

R_e are the *routed* tokens of expert e, and g the combine weight as the layer uses it: after renormalisation where the
layer renormalises.  A mean over no token is defined as 0, so an expert that nobody asked for goes first (published code
has NaN there).  Cost: O(E).
"""

from __future__ import annotations

import numbers

import numpy as np

from pymoe.backend.errors import ConfigError, NonFiniteError, check_shape
from pymoe.sparsity.statistics import Statistics


def frequency(s: Statistics) -> np.ndarray:
    """How many kept choices fell on each expert."""
    return s.count.astype(np.float64)


def weighted_frequency(s: Statistics) -> np.ndarray:
    """The sum of the combine weights that each expert got."""
    return s.weight


def ean_sum(s: Statistics) -> np.ndarray:
    """The sum of the norms of each expert's outputs."""
    return s.norm


def ean_mean(s: Statistics) -> np.ndarray:
    """The mean norm of each expert's outputs over its routed tokens."""
    return _mean(s.norm, s.count)


def reap(s: Statistics) -> np.ndarray:
    """The mean over its routed tokens of the weighted norm of each expert's output: what it adds to the stream."""
    return _mean(s.weighted_norm, s.count)


def keep(score: np.ndarray, n_keep: int, *, n_group: int = 1) -> np.ndarray:
    """(n_keep,) ids of the largest scores, ascending; of equal scores the lowest id stays.

    A router that chooses among groups of experts needs the same number in each: with its ``n_group`` the best
    n_keep / n_group of every group stay.

    >>> keep(np.array([0.1, 0.5, 0.1, 0.9]), 3), keep(np.array([0.1, 0.2, 0.5, 0.9]), 2, n_group=2)
    (array([0, 1, 3]), array([1, 3]))
    """
    score = np.asarray(score, dtype=np.float64)
    check_shape("score", score, (None,))
    n_keep = check_n_keep(n_keep, score.size)
    if score.size % n_group or n_keep % n_group:
        raise ConfigError(
            f"{n_group} groups must share {score.size} experts, and the {n_keep} that are kept, evenly: keep a "
            f"multiple of {n_group}"
        )
    if np.isnan(score).any():
        raise NonFiniteError(f"the score of expert {int(np.argmax(np.isnan(score)))} is NaN: it has no rank")
    best = np.argsort(-score.reshape(n_group, -1), axis=1, kind="stable")[:, : n_keep // n_group]
    return np.sort((best + np.arange(n_group)[:, None] * (score.size // n_group)).reshape(-1))


def check_n_keep(n_keep: int, experts: int) -> int:
    """n_keep as an int; ConfigError unless it is a number of experts that can be kept."""
    if isinstance(n_keep, bool) or not isinstance(n_keep, numbers.Integral) or not 1 <= n_keep <= experts:
        raise ConfigError(f"between 1 and {experts} experts can be kept, got {n_keep!r}")
    return int(n_keep)


def _mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.where(count > 0, total / np.maximum(count, 1), 0.0)
