"""Every form of the experts against per-token loops that share nothing with them: values, and gradients by their steps.

The routing is given to both (its own oracle is ``test_layer_oracle``); what is judged is all that comes after it, with
the gradient of each weight.  Float64, 64 units of roundoff of the tensor's maximum.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from pymoe import moe
from pymoe.backend import tree
from pymoe.moe import Form, MoEConfig, layer

from ..oracles import form_loops
from .frames import U32, U64, Frame, frozen, make, relative
from .test_forms import COMBINATIONS, MARKED

TOLERANCE = 64 * U64


def words(form: Form) -> dict[str, Any]:
    return {
        "gated": form.gated, "activation": form.activation, "limit": form.limit, "clamp": form.clamp,
        "alpha": form.gate_alpha, "offset": form.up_offset, "softcap": form.softcap,
    }  # fmt: skip


def settings(cfg: MoEConfig) -> dict[str, Any]:
    def norm(n: Any) -> Any:
        return None if n is None else (n.eps, n.scale == "input")

    return {
        "form": words(cfg.form), "shared_form": words(cfg.form_of_shared), "weight_at": cfg.weight_at,
        "post_norm": norm(cfg.post_expert_norm), "latent": bool(cfg.d_latent), "latent_norm": norm(cfg.latent_norm),
        "shared": cfg.shared if cfg.d_shared else None, "shared_width": cfg.d_shared,
        "output_norm": norm(cfg.output_norm), "experts": cfg.n_experts,
        "stored": list(range(cfg.n_experts)) if cfg.tied is None else list(cfg.tied),
        "scale": cfg.router.scale if cfg.router.scale_at == "output" else 1.0, "null": cfg.router.null_experts,
    }  # fmt: skip


def both(f: Frame, precise: Frame | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What pymoe says (of f) and what the loops say (of ``precise``, by default f), by name."""
    out, cache = f.forward()
    seen: dict[str, Any] = {}
    backward = layer.router.backward

    def spy(dg: Any, *rest: Any, **cotangents: Any) -> Any:
        seen["weight"], seen["joint"] = dg, cotangents["dshared"]
        dx, dp = backward(dg, *rest, **cotangents)
        seen["x of the router"] = dx
        return dx, dp

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer.router, "backward", spy)
        dx, dp = moe.backward(f.dy, cache)
    r = out.routing
    kept = np.ones(r.idx.shape, bool) if r.kept is None else r.kept
    real = np.ones(len(r.idx), bool) if f.mask is None else f.mask.reshape(-1)
    choices = [
        [(int(e), float(w)) for e, w, k in zip(*row, strict=True) if k] if real[t] else None
        for t, row in enumerate(zip(r.idx, r.weight, kept, strict=True))
    ]
    g = precise or f
    params = {n: np.asarray(a) for n, a in tree.flatten(g.p).items() if not n.startswith("router.")}
    x = np.where(real[:, None], g.x, 0.0)
    own = settings(f.cfg)
    joint = r.shared_weight
    y = form_loops.outcome(form_loops.complexes(x), choices, params, own, joint)
    want: dict[str, Any] = {"y": np.real(y)}
    slopes = form_loops.gradient(x, choices, params, own, g.dy.tolist(), joint)
    found: dict[str, Any] = {"y": out.y, "x": (dx - seen["x of the router"]), "weight": seen["weight"][kept]}
    if joint is not None:
        found["joint"] = np.where(real[:, None], seen["joint"], 0.0)
    assert not seen["weight"][~kept].any(), "a dropped choice has no gradient of its own"
    found |= {n: a for n, a in tree.flatten(dp).items() if not n.startswith("router.")}
    assert set(found) == set(slopes) | {"y"}
    return found, want | {n: np.reshape(s, found[n].shape) for n, s in slopes.items()}


def errors(f: Frame, precise: Frame | None = None) -> dict[str, float]:
    """Relative to a tensor's maximum, but a gradient far below the others (a weight that a norm takes out again) to an
    eighth of the largest: it is a sum of such numbers."""
    found, want = both(f, precise)
    floor = max(float(np.abs(g).max(initial=0.0)) for n, g in want.items() if n != "y") / 8
    return {
        n: relative(found[n], g) * min(1.0, float(np.abs(g).max(initial=0.0)) / floor) if n != "y" and g.any() else
        relative(found[n], g) for n, g in want.items()
    }  # fmt: skip


def small(name: str) -> Frame:
    cfg, given = COMBINATIONS[name]
    return make(cfg, 3, **given)


@pytest.mark.parametrize("name", MARKED)
def test_agrees_with_the_loops(name: str) -> None:
    wrong = {n: f"{e / U64:.0f} u" for n, e in errors(small(name)).items() if not e <= TOLERANCE}
    assert not wrong, wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COMBINATIONS)[::4])
def test_float32_stays_within_64_units(name: str) -> None:
    single = small(name).astype(np.float32)
    wrong = {n: e / U32 for n, e in errors(single, single.astype(np.float64)).items() if not e <= 64 * U32}
    assert not wrong, wrong


CHANGED: dict[str, Any] = {
    "limit": 1.001, "gate_alpha": 1.001, "up_offset": 1.001, "softcap": 1.001,
    "clamp": {"before": "after", "after": "before"}, "weight_at": {"output": "input", "input": "output"},
    "shared": {"gated": "add", "average": "add"},
}  # fmt: skip


@pytest.mark.parametrize("field", CHANGED)
def test_control_a_wrong_setting_is_seen(field: str) -> None:
    """One setting off by 0.1 %, or another word in its place: the output moves by far more than the tolerance."""
    change, moved = CHANGED[field], []
    for cfg, given in COMBINATIONS.values():
        value = getattr(cfg, field)
        new = change.get(value) if isinstance(change, dict) else value
        if (
            not new
            or new == 1.0
            or (field == "shared" and not cfg.d_shared)
            or (field == "clamp" and cfg.limit is None)
        ):
            continue
        if not isinstance(change, dict):
            new = tuple(v * change for v in value) if isinstance(value, tuple) else value * change
        f = make(cfg, 7, **given)
        wrong = dataclasses.replace(cfg, **{field: new})
        p = f.p
        if field == "shared":
            p = {**p, "shared": {n: a for n, a in p["shared"].items() if n != "gate"}}
        moved.append(relative(f._replace(cfg=wrong, p=p).forward()[0].y, f.forward()[0].y))
    assert max(moved) > 1e4 * TOLERANCE, moved


def test_a_gradient_passes_at_the_limit_and_not_beyond() -> None:
    """Inclusive, as torch's clamp; the mask looks at what came before the clamp."""
    from pymoe.ops import gated

    x = frozen(np.array([[7.0, np.nextafter(7.0, 8.0), -99.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 7.0, -7.0, 7.5]]))
    for clamp, gate_live in (("before", [1, 0, 1, 1, 1, 1]), ("after", [1, 0, 1, 1, 1, 1])):
        _, cache = gated.forward(x, act="identity", limit=7.0, clamp=clamp)
        dx, _ = gated.backward(np.ones((1, 6)), cache)
        assert (dx[0, :6] != 0).tolist() == [bool(v) for v in gate_live]
        assert (dx[0, 6:] != 0).tolist() == [True, True, True, True, True, False]
