"""How much a layer would miss each expert, from statistics of calibration tokens: (E,) scores, larger = keep.

==================== ========================================== =======================================================
score                formula                                    source
==================== ========================================== =======================================================
frequency            \\|R_e\\|                                    how often it was chosen; Expert_Sparsity, REAP's baseline
weighted_frequency   Σ_{R_e} g                                  "soft" counts (MC-SMoE, arXiv:2310.01334)
ean_sum              Σ_{R_e} ‖f_e(x)‖₂                          expert activation norm (arXiv:2504.05586)
ean_mean             mean over R_e of ‖f_e(x)‖₂                 the same
reap                 mean over R_e of g ‖f_e(x)‖₂               arXiv:2510.13999, eq. 9
==================== ========================================== =======================================================

R_e are the *routed* tokens of expert e, and g the combine weight as the layer uses it: after renormalisation where the
layer renormalises.  A mean over no token is defined as 0, so an expert that nobody asked for goes first (published code
has NaN there).  Cost: O(E).
"""

from __future__ import annotations

import numpy as np

from pymoe.backend.errors import ConfigError, NonFiniteError
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


def keep(score: np.ndarray, n_keep: int) -> np.ndarray:
    """(n_keep,) ids of the largest scores, ascending; of equal scores the lowest id stays.

    >>> keep(np.array([0.1, 0.5, 0.1, 0.9]), 3)
    array([0, 1, 3])
    """
    if score.ndim != 1 or not 1 <= n_keep <= score.size:
        raise ConfigError(f"between 1 and {score.size} experts can be kept, got {n_keep!r}")
    if np.isnan(score).any():
        raise NonFiniteError(f"the score of expert {int(np.argmax(np.isnan(score)))} is NaN: it has no rank")
    return np.sort(np.argsort(-score, kind="stable")[:n_keep])


def _mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.where(count > 0, total / np.maximum(count, 1), 0.0)
