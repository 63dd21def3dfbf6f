r"""How the sub-models' answers become one: ŷ(x) = Σ_i w_i f_i(x), by a rule that is given, counted or learnt.

================= =============================================================================== ==================
rule              w_i                                                                             ŷ adds up
================= =============================================================================== ==================
vote              1/E                                                                             votes
average           1/E                                                                             probabilities
weights           as given, made to sum to 1                                                      probabilities
logit_average     1/E                                                                             log-probabilities
accuracy          ∝ the share of held-out rows that model i gets right                            probabilities
validation        most likely on held-out rows: ``sharing.integrate.stacked_weights``, by EM      probabilities
gradient          the same, softmax(θ) with θ by Adam on ``ops.mixture_nll``                      probabilities
distance          ∝ exp(-d_i(x)²/T) of the k nearest centres (c-BTM)                              probabilities
posterior         p(i | x), that x is of subset i: a softmax regression of the subset on x        probabilities
gate              a router of x, trained through ``ops.mixture_nll``: module ``gate``                    probabilities
stacking          none: a softmax regression on the held-out log-probabilities of all models      (its own)
================= =============================================================================== ==================

``posterior`` is the law of total probability, p(c | x) = Σ_i p(i | x) p(c | x, i): for groups or clusters that show in
a row; of random subsets it says 1/E and a little noise.

A soft vote is the class of the largest average.  What is learnt is learnt on rows that no model was trained on:
a model is always right about rows that it has learnt by heart, and says nothing by it about the next row.

Gradient of ``gradient``: λ = softmax(θ), dλ_i = -1/S Σ_n s_n p_i(y_n) / Σ_j λ_j p_j(y_n), dθ by the op ``softmax``.
Sources: ``sharing.integrate``, ``gate``; stacking, Wolpert, Neural Networks 5, 1992.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pymoe.backend import namespace
from pymoe.backend.errors import ConfigError, check_shape
from pymoe.backend.namespace import Array
from pymoe.ops import mixture_nll, softmax
from pymoe.pipeline import descent, softmax_regression, sub_models, subsets
from pymoe.pipeline.descent import Settings
from pymoe.pipeline.ensemble import gate
from pymoe.sharing import integrate

RULES = (
    "vote", "average", "weights", "logit_average", "accuracy", "validation", "gradient", "distance", "posterior",
    "gate", "stacking",
)  # fmt: skip
LEARNT = ("accuracy", "validation", "gradient", "gate", "stacking")  # on held-out rows


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule that can be applied: its name, its numbers, and what it learnt or was given."""

    name: str
    k: int | None = None
    temperature: float = 0.1
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def weights(self, x: Any, models: int) -> np.ndarray:
        """w (E, N) for the rows of x; ConfigError for stacking, which has none."""
        if self.name == "stacking":
            raise ConfigError("stacking does not weigh models, it maps all of their answers at once: there is no route")
        if self.name == "distance":
            squared = subsets.distances(x, self.arrays["centres"])
            return np.asarray(integrate.cluster_weights(squared, temperature=self.temperature, k=self.k))
        if self.name == "posterior":
            found = softmax_regression.log_p(x, self.arrays["weight"], self.arrays["bias"])
            return np.ascontiguousarray(np.exp(found).T)
        if self.name == "gate":
            return np.asarray(gate.route(x, self.arrays["weight"], self.arrays["bias"], k=self.k)[0])
        lam = self.arrays.get("weights", np.full(models, 1 / models))
        return np.repeat(lam[:, None] / lam.sum(), int(x.shape[0]), axis=1)

    def combine(self, log_p: np.ndarray, x: Any) -> np.ndarray:
        """ŷ (N, C) of log_p (E, N, C) and the rows x (N, D) they are about."""
        if self.name == "stacking":
            found = softmax_regression.log_p(_features(log_p), self.arrays["weight"], self.arrays["bias"])
            return np.asarray(np.exp(found))
        lam = self.weights(x, len(log_p))
        if self.name == "vote":
            return np.asarray(integrate.votes(log_p, lam))
        if self.name == "logit_average":
            return np.asarray(integrate.logit_average(log_p, lam))
        return np.asarray(integrate.weighted_average(np.exp(log_p), lam))


def given(
    name: str,
    *,
    weights: Sequence[float] | np.ndarray | None = None,
    centres: np.ndarray | None = None,
    posterior: tuple[np.ndarray, np.ndarray] | None = None,
    k: int | None = None,
    temperature: float = 0.1,
) -> Rule:
    """A rule that looks at no answers: vote, average, weights, logit_average, distance, posterior.

    weights (E,); centres (E, D) of "distance"; posterior (W (E, D), b (E,)), the regression of the subset on x.

    >>> log_p = np.log(np.array([[[0.9, 0.1]], [[0.8, 0.2]]]))  # the article's two models, one text
    >>> given("weights", weights=[0.6, 0.4]).combine(log_p, np.zeros((1, 3))).round(15)
    array([[0.86, 0.14]])
    """
    checked(name)
    if name in LEARNT:
        raise ConfigError(f"the rule {name!r} is learnt from held-out answers: ensemble.rules.learnt")
    if name == "weights":
        if weights is None:
            raise ConfigError("integration='weights' needs weights, one number >= 0 for each expert")
        lam = np.asarray(weights, np.float64)
        if lam.ndim != 1 or not (lam >= 0).all() or not np.isfinite(lam).all() or not lam.sum() > 0:
            raise ConfigError(f"weights must be numbers >= 0, one for each expert, not all 0; got {weights!r}")
        return Rule(name, arrays={"weights": lam})
    if name == "distance":
        if centres is None:
            raise ConfigError("integration='distance' needs the centres (E, D) of the experts' rows")
        return Rule(name, k, temperature, {"centres": centres})
    if name == "posterior":
        if posterior is None:
            raise ConfigError("integration='posterior' needs the regression of the subset on x, (W (E, D), b (E,))")
        return Rule(name, arrays={"weight": posterior[0], "bias": posterior[1]})
    return Rule(name)


def learnt(
    name: str,
    log_p: np.ndarray,
    y: np.ndarray,
    *,
    x: Any = None,
    row_weight: np.ndarray | None = None,
    k: int | None = None,
    l2: float = 1.0,
) -> Rule:
    """A rule learnt from held-out answers log_p (E, N, C), targets y (N,), the rows x (N, D) (gate only).

    >>> log_p = np.log(np.array([[[0.8, 0.2]] * 4, [[0.2, 0.8]] * 4]))
    >>> y = np.array([0, 0, 0, 1])
    >>> [learnt(name, log_p, y).arrays["weights"].round(3).tolist() for name in ("accuracy", "validation", "gradient")]
    [[0.75, 0.25], [0.917, 0.083], [0.917, 0.083]]
    """
    models, n, classes = log_p.shape
    check_shape("y", y, (n,))
    s = np.ones(n) if row_weight is None else row_weight
    if name == "accuracy":
        right = ((log_p.argmax(axis=2) == y) * s).sum(axis=1)
        return Rule(name, arrays={"weights": right / right.sum() if right.sum() else np.full(models, 1 / models)})
    if name == "validation":
        lam = integrate.stacked_weights(log_p, y) if row_weight is None else _weighted_em(log_p, y, s)
        return Rule(name, arrays={"weights": np.asarray(lam)})
    if name == "gradient":

        def objective(p: descent.Parameters, rows: Any) -> tuple[float, descent.Parameters]:
            loss, cache = forward(log_p, p["theta"], y, row_weight=s)
            return float(loss), backward(1.0, cache)

        settings = Settings(solver="adam", rounds=500, lr=0.05, batch=1)  # one step a round, on all rows
        theta = descent.run(objective, {"theta": np.zeros(models)}, settings).result["theta"]
        return Rule(name, arrays={"weights": np.asarray(softmax.forward(theta)[0])})
    if name == "gate":
        return Rule(name, k, arrays=_gate(x, log_p, y, s, k, l2 / float(s.sum())))
    if name == "stacking":
        found = sub_models.fit(sub_models.Task(_features(log_p), y, classes, s, l2))
        return Rule(name, arrays={"weight": found.weight, "bias": found.bias})
    raise ConfigError(f"the rule {name!r} is not learnt: ensemble.rules.given")


class Cache(NamedTuple):
    score: softmax.Cache
    nll: mixture_nll.Cache
    scale: Array  # (N,) N s_n / S


def forward(log_p: Array, theta: Array, targets: Array, *, row_weight: Array | None = None) -> tuple[Array, Cache]:
    """loss = -1/S Σ_n s_n log Σ_i λ_i p_i(y_n), λ = softmax(θ): log_p (E, N, C), theta (E,), targets (N,) -> 0-d."""
    lam, score = softmax.forward(theta)
    xp = namespace(lam)
    n = int(log_p.shape[1])
    share = np.full(n, 1 / n) if row_weight is None else row_weight / row_weight.sum()
    by_row = xp.broadcast_to(lam[:, None], (int(lam.shape[0]), n))
    _, nll = mixture_nll.forward(log_p, by_row, targets)
    said = xp.exp(xp.take_along_axis(log_p, targets[None, :, None], axis=2)[:, :, 0])
    return -xp.sum(share * xp.log(xp.sum(by_row * said, axis=0))), Cache(score, nll, share * n)


def backward(dloss: Any, cache: Cache) -> dict[str, Array]:
    """dloss, 0-d -> {"theta": (E,)}."""
    score, nll, scale = cache
    _, d = mixture_nll.backward(dloss, nll)
    return {"theta": softmax.backward((d["weight"] * scale).sum(axis=1), score)[0]}


def checked(name: str) -> str:
    """``name`` if there is such a rule, else ConfigError."""
    if name not in RULES:
        raise ConfigError(f"integration must be one of {RULES}, got {name!r}")
    return name


def _gate(x: Any, log_p: np.ndarray, y: np.ndarray, s: np.ndarray, k: int | None, l2: float) -> dict[str, np.ndarray]:
    """The router: first with all experts, from equal weights; then, where k are asked, with the k it prefers."""
    start: descent.Parameters = {"weight": np.zeros((len(log_p), x.shape[1])), "bias": np.zeros(len(log_p))}
    for choices in (None, k) if k is not None and k < len(log_p) else (None,):

        def objective(
            p: descent.Parameters, rows: Any, choices: int | None = choices
        ) -> tuple[float, descent.Parameters]:
            loss, cache = gate.forward(x, p["weight"], p["bias"], log_p, y, row_weight=s, k=choices, l2=l2)
            return float(loss), gate.backward(1.0, cache)

        start = descent.run(objective, start, Settings(rounds=4, tol=1e-6)).result
    return start


def _weighted_em(log_p: np.ndarray, y: np.ndarray, s: np.ndarray, rounds: int = 1000) -> np.ndarray:
    """``stacked_weights`` with a weight for each row: λ <- Σ_n s_n r_n / S."""
    lam = np.full(len(log_p), 1 / len(log_p))
    for _ in range(rounds):
        r = np.asarray(integrate.responsibilities(log_p, lam, y))
        new = (r * s).sum(axis=1) / s.sum()
        moved, lam = float(np.abs(new - lam).max()), new
        if moved <= 1e-12:
            break
    return lam


def _features(log_p: np.ndarray) -> np.ndarray:
    """(N, E C): every model's log-probabilities side by side, none below -30."""
    models, n, classes = log_p.shape
    return np.asarray(np.maximum(log_p, -30.0).transpose(1, 0, 2).reshape(n, models * classes))
