"""The training of ``SparseExpertClassifier`` on merged rows: trunk, experts, shared parameters, the learnt rule.

Held-out rows (where early stopping or the rule needs them) are held out from the trunk and from every expert.  With
``refit`` all sub-models are then trained again on all rows, and the rule stays as it was learnt.  Each sub-model of
``folder`` has a name: trunk, expert_0, ..., fused, and the same with ``again_`` in front when they are trained again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from pymoe.backend.errors import ConfigError, DataError
from pymoe.backend.rng import generator
from pymoe.ops import log_softmax
from pymoe.pipeline import descent, merging, sub_models, subsets
from pymoe.pipeline.descent import Settings
from pymoe.pipeline.ensemble import fused, rules
from pymoe.pipeline.ensemble.rules import Rule
from pymoe.pipeline.sub_models import SubModel, Task
from pymoe.sharing import btx, gates

SHARING = ("trunk", "separate", "average", "fused")


@dataclasses.dataclass(frozen=True)
class Data:
    """Merged rows: x (R, D), y (R,) classes, weight (R,), C."""

    x: Any
    y: np.ndarray
    weight: np.ndarray
    n_classes: int

    def task(self, rows: np.ndarray, plan: Plan, name: str, **more: Any) -> Task:
        """A sub-model's task on some of the rows."""
        return Task(
            self.x[rows], self.y[rows], self.n_classes, self.weight[rows], settings=plan.settings, name=name, **more
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings of ``SparseExpertClassifier`` that training reads."""

    sharing: str
    integration: str
    weights: Sequence[float] | None
    temperature: float
    k: int | None
    balance: float
    l2: float
    l2_trunk: float
    settings: Settings
    early_stopping: bool
    validation_fraction: float
    refit: bool
    n_jobs: int | None
    folder: str | None
    seed: int


@dataclasses.dataclass(frozen=True)
class Made:
    """Experts weight (E, C, D), bias (E, C); the router of a fused layer or None; the rule; rounds of sub-models."""

    weight: np.ndarray
    bias: np.ndarray
    router: dict[str, np.ndarray] | None
    rule: Rule
    rounds: list[int]


def train(plan: Plan, data: Data, parts: list[np.ndarray], distinct: np.ndarray) -> Made:
    """Everything after the subsets."""
    experts = 1 if plan.sharing == "average" else len(parts)
    if plan.k is not None and not 1 <= plan.k <= experts:
        raise ConfigError(f"k must lie in 1..{experts}, the number of experts, got {plan.k!r}")
    learns = plan.integration in rules.LEARNT and plan.sharing != "fused"
    out = np.zeros(len(data.y), bool)
    if learns or plan.early_stopping:
        out = merging.held_out(data.y, distinct, plan.validation_fraction)
        if not out.any():
            raise DataError(
                f"of {len(data.y)} different rows none can be held out with validation_fraction="
                f"{plan.validation_fraction}: give more rows, or an integration that learns nothing, e.g. 'average'"
            )
    models, rounds = sub_models_of(plan, data, parts, out, "")
    rule = _rule(plan, data, parts, out, models, learns)
    if plan.refit and out.any() and not plan.early_stopping:
        models, rounds = sub_models_of(plan, data, parts, np.zeros_like(out), "again_")
    weight, bias = np.stack([m.weight for m in models]), np.stack([m.bias for m in models])
    if plan.sharing != "fused":
        return Made(weight, bias, None, rule, rounds)
    p, count = fuse(plan, data, weight, bias, out if plan.early_stopping else np.zeros_like(out))
    router = {"router": p["router"], "router_bias": p["router_bias"]}
    return Made(p["weight"], p["bias"], router, rule, [*rounds, count])


def sub_models_of(
    plan: Plan, data: Data, parts: list[np.ndarray], out: np.ndarray, prefix: str
) -> tuple[list[SubModel], list[int]]:
    """(experts, rounds of every sub-model) trained on the rows that are not held out."""
    rounds: list[int] = []
    start = None

    def stopping(rows: np.ndarray) -> dict[str, Any]:
        mine = rows[out[rows]]
        mine = mine if len(mine) else np.flatnonzero(out)
        return {"held_out": (data.x[mine], data.y[mine], data.weight[mine])} if plan.early_stopping else {}

    if plan.sharing != "separate":
        everything = np.arange(len(data.y))
        task = data.task(np.flatnonzero(~out), plan, prefix + "trunk", l2=plan.l2_trunk, **stopping(everything))
        trunk = sub_models.fit_all([task], folder=plan.folder)[0]
        start = trunk.weight, trunk.bias
        rounds.append(len(trunk.losses))
    tasks = {}
    for i, rows in enumerate(parts):
        kept = rows[~out[rows]]
        if len(kept):
            tasks[i] = data.task(kept, plan, f"{prefix}expert_{i}", l2=plan.l2, start=start, **stopping(rows))
    done = sub_models.fit_all(list(tasks.values()), n_jobs=plan.n_jobs, folder=plan.folder)
    found = dict(zip(tasks, done, strict=True))
    width = int(data.x.shape[1])
    weight, bias = start or (np.zeros((data.n_classes, width)), np.zeros(data.n_classes))
    idle = SubModel(weight, bias, (), ())
    models = [found.get(i, idle) for i in range(len(parts))]  # who has held-out rows only stays where it starts
    rounds += [len(m.losses) for m in models]
    if plan.sharing == "average":
        weight, bias = btx.mean([m.weight for m in models]), btx.mean([m.bias for m in models])
        models = [SubModel(np.asarray(weight), np.asarray(bias), (), ())]
    return models, rounds


def fuse(
    plan: Plan, data: Data, weight: np.ndarray, bias: np.ndarray, out: np.ndarray
) -> tuple[descent.Parameters, int]:
    """(parameters, rounds) of the MoE layer made of the experts and trained on, each pulled to its own branch."""
    experts, _, width = weight.shape
    rows = np.flatnonzero(~out)
    x, y, s = data.x[rows], data.y[rows], data.weight[rows]
    x = x.astype(np.float64) if x.dtype != np.float64 else x
    anchor = weight, bias
    terms: dict[str, Any] = {"k": plan.k, "balance": plan.balance, "l2": plan.l2 / float(s.sum())}
    start = {
        "weight": weight,
        "bias": bias,
        "router": gates.random(generator(plan.seed, 2), experts, width),
        "router_bias": np.zeros(experts),
    }

    def objective(p: descent.Parameters, batch: Any) -> tuple[float, descent.Parameters]:
        of = slice(None) if batch is None else batch
        part = x if batch is None else x[batch]
        loss, cache = fused.forward(part, p, y[of], row_weight=s[of], anchor=anchor, **terms)
        return float(loss), fused.backward(1.0, cache)[1]

    held = None
    if out.any():
        other = np.flatnonzero(out)

        def held(p: descent.Parameters) -> float:
            loss, _ = fused.forward(data.x[other], p, data.y[other], row_weight=data.weight[other], k=plan.k)
            return float(loss)

    state: Any = start
    after = None
    if plan.folder is not None:
        task = data.task(rows, plan, "fused", l2=plan.l2, start=tuple(start.values()))
        path, proof = (
            os.path.join(plan.folder, "fused.safetensors"),
            sub_models.digest(task, k=plan.k, balance=plan.balance),
        )
        if os.path.exists(path):
            state = sub_models.restore(path, proof, keys=tuple(start))

        def after(now: descent.State) -> None:
            sub_models.store(path, now, proof)

    end = descent.run(objective, state, plan.settings, n_rows=len(rows), held_out=held, after=after)
    return end.result, end.round


def _rule(
    plan: Plan, data: Data, parts: list[np.ndarray], out: np.ndarray, models: list[SubModel], learns: bool
) -> Rule:
    """The integration, given or learnt from what these models say of the held-out rows."""
    if plan.sharing == "fused":
        return Rule("average")  # not used: the layer has its own router
    if not learns:
        centres = None
        if plan.integration == "distance":
            v = subsets.units(data.x)
            means = [v[rows].mean(axis=0) for rows in parts]
            centres = np.stack([np.asarray(m).reshape(-1) for m in means])
            centres = centres.mean(axis=0, keepdims=True) if plan.sharing == "average" else centres
        rule = rules.given(
            plan.integration,
            weights=plan.weights,
            centres=centres,
            posterior=_posterior(plan, data, parts) if plan.integration == "posterior" else None,
            k=plan.k,
            temperature=plan.temperature,
        )
        given = rule.arrays.get("weights")
        if given is not None and len(given) != len(models):
            raise ConfigError(f"weights must hold one number for each of the {len(models)} experts, got {len(given)}")
        return rule
    rows = np.flatnonzero(out)
    x = data.x[rows]
    weight, bias = np.stack([m.weight for m in models]), np.stack([m.bias for m in models])
    log_p = log_softmax.forward(fused.expert_logits(x, weight, bias))[0]
    s = data.weight[rows]
    return rules.learnt(plan.integration, log_p, data.y[rows], x=x, row_weight=s, k=plan.k, l2=plan.l2)


def _posterior(plan: Plan, data: Data, parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(W (E, D), b (E,)) of p(subset | x), from the rows and the subsets they are in."""
    if plan.sharing == "average":
        return np.zeros((1, int(data.x.shape[1]))), np.zeros(1)
    rows = np.concatenate(parts)
    of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    task = Task(
        data.x[rows], of, len(parts), data.weight[rows], plan.l2_trunk, settings=plan.settings, name="posterior"
    )
    found = sub_models.fit_all([task], folder=plan.folder)[0]
    return found.weight, found.bias
