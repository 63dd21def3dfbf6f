"""What training minimises: the loss of a model's targets plus the weighted losses of the MoE layers::

    J = main + Σ_name w_name loss_name               main: "lm", "seq2seq" or "classify", cross-entropy in nats

A module in the shape of every other (forward, backward), so ``pymoe.verify.gradcheck`` checks J of a real model on real
text, exactly what the loop descends.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

from pymoe.backend.namespace import Array
from pymoe.models import lm, module_of

MAIN = lm.LOSS  # of a language model


class Output(NamedTuple):
    y: Array  # J, 0-d, in the accumulator dtype
    parts: dict[str, Array]  # the main loss and every other of the model, unweighted
    routing: tuple[Any, ...]  # one a block, None where it is dense


class Cache(NamedTuple):
    model: ModuleType
    c_model: Any
    weights: dict[str, float]  # of the losses this model has, the main one with 1


def forward(
    ids: Array,
    p: dict[str, Any],
    cfg: Any,
    targets: Array,
    weights: Mapping[str, float],
    draws: Any = None,
    **given: Any,
) -> tuple[Output, Cache]:
    """ids, targets as the model of ``cfg`` takes them -> Output(J, ...); ``given``: its other inputs (a mask, ...).

    A weight of a loss that the model does not have is not used.
    """
    model = module_of(cfg)
    out, c_model = model.forward(ids, p, cfg, targets=targets, draws=draws, **given)
    used = {model.LOSS: 1.0} | {name: w for name, w in weights.items() if name in out.losses}
    total = out.losses[model.LOSS]
    for name, w in used.items():
        if name != model.LOSS:
            total = total + w * out.losses[name]
    return Output(total, dict(out.losses), tuple(out.routing)), Cache(model, c_model, used)


def backward(dy: Any, cache: Cache) -> tuple[None, dict[str, Any]]:
    """dJ (a number or 0-d) -> (None: ids have no gradient, dp)."""
    model, c_model, weights = cache
    _, dp = model.backward(None, c_model, {name: w * dy for name, w in weights.items()})
    return None, dp
