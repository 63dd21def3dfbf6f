"""A layer of score -> select -> weigh on three tokens: every step with its symbol, its formula and its numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pymoe import moe
from pymoe.backend import tree
from pymoe.moe import experts, latent, logits, output, score, weigh
from pymoe.moe.config import MoEConfig
from pymoe.moe.given import Given
from pymoe.moe.select import group_limited, quantile, sinkhorn

TOKENS, D, F = 3, 4, 3
BALANCE = 0.01  # the cotangent of each loss in the example


class Step(NamedTuple):
    symbol: str
    formula: str
    value: Any  # an array or a number


def numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal draws with one decimal, short enough to compute with by hand, none of them 0.

    >>> numbers(np.random.default_rng(0), (3,))
    array([ 0.1, -0.1,  0.6])
    """
    drawn = np.round(rng.standard_normal(shape), 1)
    return np.where(drawn == 0, 0.1, drawn)


def steps(cfg: MoEConfig, seed: int = 0) -> list[Step]:
    """The forward and the backward of one layer on three tokens, in the order in which they happen.

    >>> from pymoe import presets
    >>> found = {s.symbol: s.value for s in steps(presets.mixtral(D, F, n_experts=4, k=2))}
    >>> bool(np.allclose(found["g"].sum(1), 1)), found["dz"].shape
    (True, (3, 4))
    """
    rng = np.random.default_rng(seed)
    p = tree.unflatten({name: _parameter(rng, name, a) for name, a in tree.flatten(moe.init(rng, cfg)).items()})
    x, dy = numbers(rng, (TOKENS, cfg.d_model)), numbers(rng, (TOKENS, cfg.d_model))
    given = Given()
    if cfg.router.select == "table":
        given = Given(token_ids=np.arange(TOKENS))
    elif cfg.router.select == "given":
        given = Given(idx=np.argsort(rng.random((TOKENS, cfg.n_experts)), axis=1)[:, : cfg.k])
    draws = moe.draw(rng, cfg, TOKENS)
    out, cache = moe.forward(x, p, cfg, draws=draws, given=given)
    found = [Step("x", "three tokens (T, D)", x)]
    found += [Step(f"router.{name}", "a parameter", a) for name, a in tree.flatten(p["router"]).items()]
    found += [Step(name, "a draw, kept for backward", a) for name, a in draws._asdict().items() if a is not None]
    found += _router(cfg, p["router"], out, logits.forward(x, p["router"], cfg.router, draws)[0])
    found.append(Step("y", _sum_of(cfg), out.y))
    return found + _backward(cfg, dy, out, cache)


def _parameter(rng: np.random.Generator, name: str, a: np.ndarray) -> np.ndarray:
    if not np.issubdtype(a.dtype, np.floating):
        return a
    drawn = numbers(rng, a.shape)
    return drawn / 10 if name.endswith("selection_bias") else drawn  # small beside scores, as in training


def _router(cfg: MoEConfig, p: dict[str, Any], out: Any, z: Any) -> list[Step]:
    r, routing = cfg.router, out.routing
    found = [Step("z", "logits of the router (T, E)", routing.logits)]
    if r.noise != "none":
        found.append(Step("h", "z with noise", z.h))
    s = z.h
    if r.score_at == "all":
        s = score.get(r.score).forward(z.h)[0]
        found.append(Step("s", f"{r.score if isinstance(r.score, str) else r.score.__name__} of the logits", s))
    compared = z.h if r.select_on == "logits" else s
    if r.selection_bias:
        compared = compared + p["selection_bias"]
        found.append(Step("s + b", "what is compared: the bias selects and does nothing else", compared))
    if r.select == "group_limited":
        found.append(Step("groups", f"score of each group: {r.group_score}", group_limited.scores(compared, r)))
    if r.select == "quantile":
        price = quantile.update(compared, np.zeros(r.n_ids), r.k)
        found.append(Step("β", "the price of each expert, subtracted before the choice", price))
    if r.select == "sinkhorn":
        found.append(
            Step(
                "log v",
                "the price of each expert, added before the choice",
                sinkhorn.prices(sinkhorn.logits(compared, r)),
            )
        )
    found.append(Step("idx", "the chosen experts: a decision, no gradient passes", routing.idx))
    if routing.kept is not None:
        found.append(Step("kept", "choices that are not dropped: a decision", routing.kept))
    found.append(Step("g", "the weights of the chosen", routing.weight))
    if routing.shared_weight is not None:
        found.append(Step("g shared", "the weights of the shared experts", routing.shared_weight))
    found.append(Step("load", "how often each expert was chosen", routing.load))
    return found + [Step(f"loss {name}", "without its coefficient", float(v)) for name, v in out.losses.items()]


def _sum_of(cfg: MoEConfig) -> str:
    routed = "sum of g f_e(x) over the choices" if cfg.weight_at != "input" else "sum of f_e(g x) over the choices"
    return routed + (", and the shared expert" if cfg.d_shared else "")


def _backward(cfg: MoEConfig, dy: np.ndarray, out: Any, cache: Any) -> list[Step]:
    """The gradients between, by the same functions that ``moe.backward`` calls, and what it returns."""
    found = [Step("dy", "given", dy)]
    dm = output.backward(dy, cache.output)[0]
    if cache.latent is not None:
        dm = latent.backward_post(dm, cache.latent[1])[0]
    dg = experts.backward(dm, cache.experts)[1]["g"]
    found.append(Step("dg", "<dy, f_e(x)> of each choice; 0 where dropped", dg))
    if cfg.router.norm != "joint":
        dv = weigh.backward(dg, cache.router.weigh)[0]
        if cache.router.s is None:
            found.append(Step("dz", "through the weights and the score of the chosen; others 0", dv))
        else:
            found.append(Step("ds", "through the weights; not chosen: 0 unless a sum mixes them", dv))
            found.append(Step("dz", "through the score", cache.router.score.backward(dv, cache.router.s)[0]))
    dlosses = {name: BALANCE for name in out.losses}
    dx, dp = moe.backward(dy, cache, dlosses)
    with_losses = f", with {BALANCE} of each loss" if dlosses else ""
    for name, a in tree.flatten(dp["router"]).items():
        found.append(Step(f"d router.{name}", f"gradient{with_losses}", a))
    return [*found, Step("dx", f"of the experts and the router{with_losses}", dx)]
