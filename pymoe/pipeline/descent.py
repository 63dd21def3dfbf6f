r"""Down a loss in rounds, each of which starts from values alone, so that a run can stop after any and go on exactly.

========= ========================================================================================================
solver    one round
========= ========================================================================================================
lbfgs     ``length`` iterations of scipy's L-BFGS-B on all rows, from where the last round ended, with a fresh memory
adam      one pass over the rows in batches, drawn by (seed, round): ``train.optim.adam``
========= ========================================================================================================

The fresh memory costs L-BFGS iterations (15,000 texts of 44,000 features, three classes: 140 gradients in one run, 158
in rounds of 50, 180 in rounds of 20), and buys that the weights are the whole state.  On the same texts ten passes of
Adam ended higher than those 158 gradients, in about the same time: so L-BFGS is the default.

The end: max|gradient| <= tol (lbfgs), ``rounds`` rounds, or, where a held-out loss is
given, ``patience`` rounds in which it did not fall; then the best round's parameters are the result.

Sources: Liu and Nocedal, Mathematical Programming 45, 1989; Kingma and Ba, arXiv:1412.6980.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.optimize

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, NonFiniteError, check_integer
from pymoe.backend.rng import generator
from pymoe.train.optim import adam

SOLVERS = ("lbfgs", "adam")
Parameters = dict[str, np.ndarray]
# (parameters, rows or None for all) -> (loss, gradients with the same keys)
Objective = Callable[[Parameters, Any], tuple[float, Parameters]]


@dataclass(frozen=True)
class Settings:
    """solver, rounds: the most there may be, and how each is run (the table of the module).

    ftol    lbfgs: ends a round where a step lowers the loss by less than ftol · max(|loss|, 1)
    """

    solver: str = "lbfgs"
    rounds: int = 10
    length: int = 50
    tol: float = 1e-4
    patience: int = 3
    lr: float = 0.01
    batch: int = 256
    seed: int = 0
    ftol: float = 64 * sys.float_info.epsilon

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ConfigError(f"solver must be one of {SOLVERS}, got {self.solver!r}")
        for name in ("rounds", "length", "patience", "batch"):
            check_integer(name, getattr(self, name))
        for name in ("tol", "ftol", "lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be a positive finite number, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class State:
    """All that the next round depends on."""

    p: Parameters
    optimiser: dict[str, Parameters] = field(default_factory=dict)  # Adam's m and v
    round: int = 0
    step: int = 0  # of Adam
    done: bool = False
    best_p: Parameters | None = None
    best: float = math.inf  # the least held-out loss
    waited: int = 0  # rounds since
    losses: tuple[float, ...] = ()  # at the end of each round (adam: the mean over its batches)
    held_out: tuple[float, ...] = ()

    @property
    def result(self) -> Parameters:
        """The parameters of the best round, or of the last where nothing was held out."""
        return self.p if self.best_p is None else self.best_p


def run(
    objective: Objective,
    start: Parameters | State,
    settings: Settings,
    *,
    n_rows: int = 1,
    held_out: Callable[[Parameters], float] | None = None,
    after: Callable[[State], None] | None = None,
) -> State:
    """Rounds until the end; ``after`` is called with the state of each (to store it: ``run`` goes on from a State).

    >>> def square(p, rows):
    ...     return float(((p["w"] - 3) ** 2).sum()), {"w": 2 * (p["w"] - 3)}
    >>> found = run(square, {"w": np.zeros(2)}, Settings())
    >>> found.result["w"].round(6), found.done
    (array([3., 3.]), True)
    """
    state = start if isinstance(start, State) else State(dict(start))
    with one_thread():
        while not state.done:
            state = one_round(objective, state, settings, n_rows=n_rows, held_out=held_out)
            if after is not None:
                after(state)
    return state


def one_thread() -> contextlib.AbstractContextManager[Any]:
    """BLAS with one thread while it lasts, where threadpoolctl (scikit-learn brings it) is there to say so.

    L-BFGS asks BLAS for products of a few dozen numbers; on a busy machine two threads make each of them hundreds of
    times slower (measured: a fit of 300 rows in 0.012 s, and in 0.30 s with two).  And no bit depends on the cores.
    """
    try:
        control: Any = importlib.import_module("threadpoolctl")
    except ImportError:
        return contextlib.nullcontext()
    limits: contextlib.AbstractContextManager[Any] = control.threadpool_limits(1, user_api="blas")
    return limits


def one_round(
    objective: Objective,
    state: State,
    settings: Settings,
    *,
    n_rows: int = 1,
    held_out: Callable[[Parameters], float] | None = None,
) -> State:
    """The state after one more round."""
    step, optimiser, converged = state.step, state.optimiser, False
    if settings.solver == "lbfgs":
        p, loss, converged = _lbfgs(objective, state.p, settings)
    else:
        p, optimiser, step, loss = _adam(objective, state, settings, n_rows)
    if not math.isfinite(loss):
        raise NonFiniteError(f"the loss of round {state.round} is {loss}: scale the features, or take a smaller lr")
    best, best_p, waited, seen = state.best, state.best_p, state.waited, state.held_out
    if held_out is not None:
        now = float(held_out(p))
        seen = (*seen, now)
        best, best_p, waited = (now, p, 0) if now < best else (best, best_p, waited + 1)
    count = state.round + 1
    done = converged or count >= settings.rounds or (held_out is not None and waited >= settings.patience)
    return State(p, optimiser, count, step, done, best_p, best, waited, (*state.losses, loss), seen)


def _lbfgs(objective: Objective, p: Parameters, settings: Settings) -> tuple[Parameters, float, bool]:
    shapes = {name: a.shape for name, a in p.items()}

    def split(theta: np.ndarray) -> Parameters:
        out, at = {}, 0
        for name, shape in shapes.items():
            size = math.prod(shape)
            out[name] = theta[at : at + size].reshape(shape)
            at += size
        return out

    def value(theta: np.ndarray) -> tuple[float, np.ndarray]:
        loss, d = objective(split(theta), None)
        return float(loss), np.concatenate([np.asarray(d[name], np.float64).reshape(-1) for name in shapes])

    theta = np.concatenate([np.asarray(a, np.float64).reshape(-1) for a in p.values()])
    found = scipy.optimize.minimize(
        value,
        theta,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": settings.length, "gtol": settings.tol, "ftol": settings.ftol, "maxls": 50},
    )
    stopped = found.nit < settings.length  # converged, or no step goes down any more
    return {name: a.copy() for name, a in split(found.x).items()}, float(found.fun), bool(stopped)


def _adam(
    objective: Objective, state: State, settings: Settings, n_rows: int
) -> tuple[Parameters, dict[str, Parameters], int, float]:
    p, optimiser, step = state.p, state.optimiser or adam.init(state.p), state.step
    order = generator(settings.seed, state.round).permutation(n_rows)
    losses = []
    for at in range(0, n_rows, settings.batch):
        loss, d = objective(p, np.sort(order[at : at + settings.batch]))
        step += 1
        d = tree.map(lambda a: np.ascontiguousarray(a, np.float64), d)
        p, optimiser = adam.update(p, d, optimiser, lr=settings.lr, step=step)
        losses.append(float(loss))
    return p, optimiser, step, math.fsum(losses) / len(losses)
