"""pymoe beside a stored or a live result of transformers: every number of both directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pymoe import hf
from pymoe.hf import blocks
from pymoe.moe.given import Given

TOLERANCE = 1e-12  # of the tensor's maximum


View = Callable[[str, np.ndarray], np.ndarray]


def whole(name: str, a: np.ndarray) -> np.ndarray:
    return a


def error(got: Any, want: Any) -> float:
    """max |got - want| / max |want|; where all of want is 0, 0 for exact zeros and infinity for anything else."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, (got.shape, want.shape)
    largest, off = float(np.abs(want).max(initial=0)), float(np.abs(got - want).max(initial=0))
    return off / largest if largest else (0.0 if off == 0 else float("inf"))


def by_expert(idx: np.ndarray, *rows: np.ndarray) -> list[np.ndarray]:
    """The slots of each token in the order of their experts: the order among them is nobody's business."""
    order = np.argsort(idx, axis=1, kind="stable")
    return [np.take_along_axis(a, order, axis=1) for a in (idx, *rows)]


def errors(
    raw: Any, result: Any, part: str | None = None, layer: int | None = None, factor: float = 1.0, view: View = whole
) -> dict[str, float]:
    """The error of each number of ``result`` (``reference.Result``, or what was stored of one as ``view`` sees it)."""
    cfg = hf.config(raw, part=part, layer=layer)
    p = hf.load(result.state, cfg)
    run = blocks.module_of(cfg)
    out, cache = run.forward(result.x, p, cfg, **given(result.inputs))
    dx, dp, *dstate = run.backward(result.dy, cache)
    found = {"y": error(out.y, result.y), "dx": error(dx, result.dx)}
    found |= {f"d {n}": error(d, result.dinputs[n]) for n, d in zip(result.dinputs, dstate, strict=True)}
    idx, weight = by_expert(result.idx, result.weight)
    own, own_weight = by_expert(np.asarray(out.routing.idx), np.asarray(out.routing.weight))
    assert np.array_equal(own, idx), "other experts were chosen"
    found["weight"] = error(own_weight, weight)
    found["logits"] = logits(cfg, out, cache, result)
    unread = blocks.FAMILIES[cfg.family].unread
    grads = {n: a for n, a in result.grads.items() if not n.startswith(unread or ("none",))}
    found |= gradients({n: view(n, a) for n, a in hf.dump(dp, cfg, gradients=True).items()}, grads, set(result.state))
    if result.aux is not None:
        found["aux"] = error(factor * out.losses["balance"], result.aux)
        aux_dx, _ = run.backward(np.zeros_like(result.dy), cache, {"balance": factor})
        found["aux dx"] = error(aux_dx, result.aux_dx)
    return found


def given(inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What transformers' blocks take besides x, by pymoe's names."""
    found: dict[str, Any] = {}
    if "prev_router_hidden_states" in inputs:
        found["state"] = inputs["prev_router_hidden_states"]
    if "input_ids" in inputs:
        found["given"] = Given(token_ids=inputs["input_ids"].astype(np.int64))
    return found


def gradients(got: Mapping[str, Any], want: Mapping[str, Any], names: set[str]) -> dict[str, float]:
    """Of every parameter; a buffer only decides, and its gradient here must be exactly 0."""
    assert set(want) <= set(got) <= names, (sorted(want), sorted(got))
    found = {f"d {name}": error(got[name], want[name]) for name in want}
    for name in set(got) - set(want):
        assert not np.any(got[name]), f"{name} is a buffer, and has a gradient"
    return found


def logits(cfg: Any, out: Any, cache: Any, result: Any) -> float:
    """The error of what the router had before any score; where one of the two only shows its softmax, of that."""
    want = result.logits.reshape(len(out.routing.idx), -1)
    if cfg.family in ("gemma4", "diffusion_gemma"):
        return error(softmax(np.asarray(out.routing.logits)), want)
    if cfg.family == "zaya":
        return error(cache.s.p, softmax(want))
    if cfg.family in ("phimoe", "doge"):
        return error(result.x.reshape(-1, cfg.d_model) @ result.state[ROUTER[cfg.family]].T, want)
    return error(np.asarray(out.routing.logits)[:, : want.shape[1]], want)


ROUTER = {"phimoe": "router.weight", "doge": "router_gate.weight"}


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
