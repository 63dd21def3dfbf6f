r"""The results of several models made into one: votes, averages, and a mixture whose weights are known or learnt.

p_i (..., C) what model i thinks of C classes, z_i its logits, λ weights of the models, M models first: (M, ..., C)

=================== ================================================================================================
hard_vote           argmax_c Σ_i λ_i 1[argmax p_i = c]
soft_vote           argmax_c Σ_i λ_i p_i(c)
weighted_average    Σ_i λ_i p_i / Σ λ_i                                (op ``mixture``)
logit_average       softmax(Σ_i λ_i z_i / Σ λ_i): the geometric mean of the p_i, made to sum to 1
log_mixture         log Σ_i λ_i p_i, from the logits                   (loss and both gradients: op ``mixture_nll``)
cluster_weights     λ_i ∝ exp(-d_i² / T) over the k nearest clusters, 0 for the others (c-BTM)
responsibilities    r_i = λ_i p_i(y) / Σ_j λ_j p_j(y): whose word it was
stacked_weights     argmax_λ Σ_n log Σ_i λ_i p_i(y_n) on held-out text, λ >= 0, Σ λ = 1
=================== ================================================================================================

λ has shape (M,), or (M, ...) where each row has its own; None: all equal.  Ties: the lowest class; of clusters the
lowest.  A mixture adds probabilities and then takes the logarithm; an average of logits lets one model that is sure a
class is impossible rule it out.  Gradients: the ops named above; a softmax for λ or for the logits' average chains on.

>>> import numpy as np
>>> p = np.array([[0.9, 0.1], [0.8, 0.2]])  # two models on one text: will it rain?
>>> weighted_average(p, [0.6, 0.4]).round(15)  # 0.6 · 0.9 + 0.4 · 0.8
array([0.86, 0.14])

Sources: Li et al., *Branch-Train-Merge*, arXiv:2208.03306, section 2.3; Gururangan et al., *c-BTM*, arXiv:2303.14177,
eq. 3-4; logarithmic pool, Genest and Zidek, Statistical Science 1, 1986; stacking, Wolpert, Neural Networks 5, 1992,
by expectation maximisation, Dempster et al., 1977.  Cost: one pass over M N C numbers.
"""

from __future__ import annotations

from typing import Any

from pymoe.backend import device, namespace, real
from pymoe.backend.errors import ConfigError, DataError, NonFiniteError, ShapeError, check_integer, check_shape
from pymoe.backend.namespace import Array
from pymoe.kernels import checks
from pymoe.ops import log_softmax, logsumexp, mixture, softmax
from pymoe.sharing import inputs


def votes(p: Array, weights: Any = None) -> Array:
    """(..., C): the weight of the models whose best class it is; p (M, ..., C) probabilities, logits or any scores.

    >>> import numpy as np
    >>> votes(np.array([[0.6, 0.4], [0.6, 0.4], [0.0, 1.0]]))
    array([2., 1.])
    """
    p = _stacked("p", p)
    _no_nan("p", p)
    xp = namespace(p)
    best = xp.argmax(real(p), axis=-1)  # the first of equals
    one_hot = xp.arange(int(p.shape[-1]), device=device(p)) == best[..., None]
    return mixture.forward(xp.astype(one_hot, real(p).dtype), _weights(p, weights, normalised=False))[0]


def hard_vote(p: Array, weights: Any = None) -> Array:
    """(...) the class that most models, or most of their weight, put first; of equals the lowest.

    >>> import numpy as np
    >>> hard_vote(np.array([[0.6, 0.4], [0.6, 0.4], [0.0, 1.0]])), soft_vote(np.array([[0.6, 0.4], [0.6, 0.4], [0, 1]]))
    (np.int64(0), np.int64(1))
    """
    counted = votes(p, weights)
    return namespace(counted).argmax(counted, axis=-1)


def soft_vote(p: Array, weights: Any = None) -> Array:
    """(...) the class of the largest average probability; of equals the lowest."""
    average = weighted_average(p, weights)
    _no_nan("the average of p", average)
    return namespace(average).argmax(real(average), axis=-1)


def weighted_average(p: Array, weights: Any = None) -> Array:
    """(..., C) Σ λ_i p_i / Σ λ_i of p (M, ..., C).

    >>> import numpy as np
    >>> weighted_average(np.array([[[1.0, 0.0]], [[0.0, 1.0]]]), np.array([[3.0], [1.0]]))
    array([[0.75, 0.25]])
    """
    p = _stacked("p", p)
    return mixture.forward(p, _weights(p, weights))[0]


def logit_average(z: Array, weights: Any = None) -> Array:
    """(..., C) softmax(Σ λ_i z_i / Σ λ_i) of logits (or log-probabilities) z (M, ..., C).

    >>> import numpy as np
    >>> logit_average(np.log(np.array([[0.9, 0.1], [0.5, 0.5]]))).round(12)  # √(0.9 · 0.5) against √(0.1 · 0.5): 3 to 1
    array([0.75, 0.25])
    """
    z = _stacked("z", z)
    return softmax.forward(mixture.forward(z, _weights(z, weights))[0])[0]


def log_mixture(z: Array, weights: Any = None) -> Array:
    """(..., C) log Σ_i λ_i softmax(z_i), λ as it is (None: 1/M); nothing overflows, and small probabilities stay.

    >>> import numpy as np
    >>> np.exp(log_mixture(np.log(np.array([[0.9, 0.1], [0.8, 0.2]])), np.array([0.6, 0.4]))).round(12)
    array([0.86, 0.14])
    """
    z = _stacked("z", z)
    terms = log_softmax.forward(z)[0] + _log_weights(z, weights)  # (M, ..., C)
    return logsumexp.forward(namespace(z).moveaxis(terms, 0, -1))[0]


def cluster_weights(squared: Array, *, temperature: float = 0.1, k: int | None = None) -> Array:
    """λ (M, ...) ∝ exp(-d²/T) of squared distances (M, ...) to the clusters of M models, of the k nearest only.

    ``squared`` first over the models, as all here; of a text-by-cluster table give the transpose.  T > 0.

    >>> import numpy as np
    >>> cluster_weights(np.array([0.0, 0.1 * np.log(3), 5.0]), k=2).round(12)
    array([0.75, 0.25, 0.  ])
    """
    xp = namespace(squared)
    checks.floating("squared", squared)
    models = check_integer("the number of models", int(squared.shape[0]) if squared.ndim else 0)
    k = models if k is None else check_integer("k", k)
    if k > models:
        raise ConfigError(f"k must not exceed the number of models: got k={k} of {models}")
    if not 0 < temperature < float("inf"):
        raise ConfigError(f"temperature must be a positive finite number, got {temperature!r}")
    inputs.finite("squared", squared)
    if bool(xp.any(squared < 0)):
        raise ConfigError("squared distances must not be negative")
    rank = xp.argsort(xp.argsort(squared, axis=0, stable=True), axis=0, stable=True)
    near = squared - xp.min(squared, axis=0, keepdims=True)
    raised = xp.where(rank < k, xp.exp(-near / temperature), xp.zeros_like(near))
    return raised / xp.sum(raised, axis=0, keepdims=True)


def responsibilities(z: Array, weights: Any, targets: Array) -> Array:
    """(M, ...) r_i = λ_i p_i(y) / Σ_j λ_j p_j(y) of logits z (M, ..., C), targets (...) in [0, C).

    >>> import numpy as np
    >>> z = np.log(np.array([[0.9, 0.1], [0.3, 0.7]]))
    >>> responsibilities(z, np.array([0.5, 0.5]), np.array(0)).round(12)
    array([0.75, 0.25])
    """
    z = _stacked("z", z)
    xp = namespace(z, targets)
    check_shape("targets", targets, tuple(z.shape[1:-1]))
    checks.index("targets", targets, int(z.shape[-1]))
    at = xp.broadcast_to(targets[None, ..., None], (*z.shape[:-1], 1))
    said = xp.take_along_axis(log_softmax.forward(z)[0], at, axis=-1) + _log_weights(z, weights)  # log λ_i p_i(y)
    return xp.moveaxis(softmax.forward(xp.moveaxis(said[..., 0], 0, -1))[0], -1, 0)


def stacked_weights(z: Array, targets: Array, *, rounds: int = 1000, tolerance: float = 1e-12) -> Array:
    """λ (M,) that gives held-out targets (N,) the largest likelihood under logits z (M, N, C).

    Expectation maximisation, λ <- mean_n r_n, from equal weights: each round raises the likelihood, which is concave in
    λ, so that the limit is the best there is.  Stops when no weight moves by more than ``tolerance``.  A target that no
    model can say says nothing about the weights and is left out; DataError if there is no other.

    >>> import numpy as np
    >>> z = np.log(np.array([[[0.8, 0.2]] * 4, [[0.2, 0.8]] * 4]))
    >>> stacked_weights(z, np.array([0, 0, 0, 1]), rounds=9999).round(6)  # 0.8 λ + 0.2 (1 - λ) = 3/4
    array([0.916667, 0.083333])
    """
    z = _stacked("z", z)
    check_shape("z", z, (None, None, None))
    xp = namespace(z)
    if not z.shape[1]:
        raise DataError("weights cannot be stacked on no held-out targets: give text that no model was trained on")
    check_integer("rounds", rounds)
    lam = xp.full((int(z.shape[0]),), 1 / int(z.shape[0]), dtype=xp.float64, device=device(z))
    z = xp.astype(z, xp.float64)
    known = xp.any(responsibilities(z, lam, targets) != 0, axis=0)
    if not bool(xp.any(known)):
        raise DataError("no model can say any of the held-out targets: their logits are -inf; give other text")
    (rows,) = xp.nonzero(known)
    z, targets = xp.take(z, rows, axis=1), xp.take(targets, rows)
    for _ in range(rounds):
        new = xp.mean(responsibilities(z, lam, targets), axis=1)
        moved = float(xp.max(xp.abs(new - lam)))
        lam = new
        if moved <= tolerance:
            break
    return lam


def _stacked(name: str, p: Any) -> Array:
    """(M, ..., C) as one array: an array, or a sequence of one for each model."""
    if isinstance(p, (list, tuple)):
        if not p:
            raise DataError(f"{name} holds no model: there is nothing to integrate")
        first = p[0]
        for i, other in enumerate(p):
            check_shape(f"{name}[{i}]", other, tuple(first.shape))
        p = namespace(*p).stack(list(p))
    checks.floating(name, p)
    if p.ndim < 2 or p.shape[0] == 0 or p.shape[-1] == 0:
        raise ShapeError(f"{name} must have shape (M, ..., C) with a model and a class at least, got {tuple(p.shape)}")
    return p


def _no_nan(name: str, p: Array) -> None:
    """NaN has no rank: a vote over it has no answer."""
    if bool(namespace(p).any(namespace(p).isnan(real(p)))):
        raise NonFiniteError(f"{name} holds NaN: no class can be chosen; find the model and the step that made it")


def _weights(p: Array, weights: Any, *, normalised: bool = True) -> Array:
    """λ (M,) or (M, ...) in the dtype of p: at least 0, not all 0; divided by Σ λ where asked."""
    xp = namespace(p)
    models = int(p.shape[0])
    if weights is None:
        lam = xp.ones((models,), dtype=p.dtype, device=device(p))
    elif hasattr(weights, "shape"):
        namespace(p, weights)
        checks.floating("weights", weights)
        lam = xp.astype(weights, p.dtype, copy=False)
    else:
        lam = xp.asarray(list(weights), dtype=p.dtype, device=device(p))
    check_shape("weights", lam, (models,) if lam.ndim == 1 else tuple(p.shape[:-1]))
    if not bool(xp.all(real(lam) >= 0)):
        raise ConfigError("weights of models must be numbers of at least 0, got one below, or NaN")
    total = xp.sum(lam, axis=0, keepdims=True)
    if bool(xp.any(real(total) == 0)):
        raise ConfigError("at least one model must have a weight above 0 (in each row, where rows have their own)")
    return lam / total if normalised else lam


def _log_weights(p: Array, weights: Any) -> Array:
    """log λ with axes of length 1 up to those of p; -inf where λ = 0."""
    xp = namespace(p)
    lam = _weights(p, weights, normalised=weights is None)
    lam = xp.reshape(lam, (*lam.shape, *([1] * (p.ndim - lam.ndim))))
    some = real(lam) > 0
    return xp.where(some, xp.log(xp.where(some, lam, xp.ones_like(lam))), xp.full_like(lam, -xp.inf))
