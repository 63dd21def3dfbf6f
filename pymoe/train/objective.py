"""What training minimises: the cross-entropy of the next token plus the weighted losses of the MoE layers::

    J = lm + Σ_name w_name loss_name                 lm: cross-entropy, nats a token

A module in the shape of every other (forward, backward), so ``pymoe.verify.gradcheck`` checks J of a real model on real
text, exactly what the loop descends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pymoe.backend.namespace import Array
from pymoe.models import lm

MAIN = lm.LOSS


class Output(NamedTuple):
    y: Array  # J, 0-d, in the accumulator dtype
    parts: dict[str, Array]  # "lm" and every loss of the model, unweighted
    routing: tuple[Any, ...]  # one a block, None where it is dense


class Cache(NamedTuple):
    c_model: Any
    weights: dict[str, float]  # of the losses this model has, lm with 1


def forward(
    ids: Array, p: dict[str, Any], cfg: Any, targets: Array, weights: Mapping[str, float], draws: Any = None
) -> tuple[Output, Cache]:
    """ids, targets (B, S) integers -> Output(J, ...).  A weight of a loss that the model does not have is not used."""
    out, c_model = lm.forward(ids, p, cfg, targets=targets, draws=draws)
    used = {MAIN: 1.0} | {name: w for name, w in weights.items() if name in out.losses}
    total = out.losses[MAIN]
    for name, w in used.items():
        if name != MAIN:
            total = total + w * out.losses[name]
    return Output(total, dict(out.losses), tuple(out.routing)), Cache(c_model, used)


def backward(dy: Any, cache: Cache) -> tuple[None, dict[str, Any]]:
    """dJ (a number or 0-d) -> (None: ids have no gradient, dp)."""
    c_model, weights = cache
    _, dp = lm.backward(None, c_model, {name: w * dy for name, w in weights.items()})
    return None, dp
