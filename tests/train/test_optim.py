"""Optimisers against torch.optim and against loops over Python numbers, at 1e-13 of the tensor's largest entry."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, ShapeError
from pymoe.train import clip
from pymoe.train.optim import OPTIMIZERS, adam, adamw, is_matrix, sgd

SHAPES = {"router": {"weight": (3, 4), "bias": (3,)}, "norm": (5,), "stack": (2, 3, 4)}
STEPS = 9

CASES = {
    "sgd": (sgd, {"momentum": 0.0}),
    "sgd momentum": (sgd, {"momentum": 0.9}),
    "sgd nesterov decay": (sgd, {"momentum": 0.8, "nesterov": True, "decay": 0.03}),
    "adam": (adam, {"beta1": 0.8, "beta2": 0.97, "eps": 1e-7}),
    "adam decay": (adam, {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "decay": 0.05}),
    "adamw": (adamw, {"beta1": 0.85, "beta2": 0.95, "eps": 1e-6, "decay": 0.2}),
    "adamw no decay": (adamw, {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "decay": 0.0}),
}


def drawn(seed: int, scale: float = 1.0) -> dict:
    """A read-only tree; gradients of very different sizes, and one that is often 0."""
    rng = np.random.default_rng(seed)

    def leaf(shape):
        a = scale * rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3, size=shape)
        a = a * (rng.random(shape) > 0.2)
        a.setflags(write=False)
        return a

    return tree.unflatten({name: leaf(shape) for name, shape in tree.flatten(SHAPES).items()})


def rate(t: int) -> float:
    return 0.02 / (1 + 0.3 * t)


def ours(module, settings, decays, factor=1.0):
    p, state = drawn(0), module.init(drawn(0))
    for t in range(STEPS):
        p, state = module.update(p, drawn(t + 1), state, lr=factor * rate(t), step=t + 1, decays=decays, **settings)
        for a in tree.flatten({"p": p, "s": state}).values():
            a.setflags(write=False)
    return tree.flatten(p)


def gap(a, b) -> float:
    return max(float(np.max(np.abs(a[n] - b[n])) / np.max(np.abs(b[n]))) for n in b)


def by_torch(module, settings, decays):
    torch = pytest.importorskip("torch")
    leaves = {n: torch.tensor(a, dtype=torch.float64) for n, a in tree.flatten(drawn(0)).items()}
    common = {"lr": rate(0)}
    groups = [
        {"params": [t for n, t in leaves.items() if decays(n, t) is d], "weight_decay": settings.get("decay", 0.0) * d}
        for d in (True, False)
    ]
    groups = [g for g in groups if g["params"]]
    if module is sgd:
        kind = torch.optim.SGD
        common |= {"momentum": settings["momentum"], "nesterov": settings.get("nesterov", False)}
    else:
        kind = torch.optim.Adam if module is adam else torch.optim.AdamW
        common |= {"betas": (settings["beta1"], settings["beta2"]), "eps": settings["eps"]}
    optimiser = kind(groups, **common)
    for t in range(STEPS):
        g = tree.flatten(drawn(t + 1))
        for group in optimiser.param_groups:
            group["lr"] = rate(t)
        for name, leaf in leaves.items():
            leaf.grad = torch.tensor(g[name], dtype=torch.float64)
        optimiser.step()
    return {n: t.numpy() for n, t in leaves.items()}


def by_hand(module, settings, decays):
    """The papers' algorithms, one number at a time."""
    result = {}
    for name, start in tree.flatten(drawn(0)).items():
        flat = []
        decay = settings.get("decay", 0.0) if decays(name, start) else 0.0
        for i, w in enumerate(start.reshape(-1).tolist()):
            b = m = v = 0.0
            for t in range(STEPS):
                g = float(tree.flatten(drawn(t + 1))[name].reshape(-1)[i])
                lr = rate(t)
                if module is sgd:
                    g += decay * w
                    b = settings["momentum"] * b + g
                    w -= lr * (g + settings["momentum"] * b) if settings.get("nesterov") else lr * b
                    continue
                if module is adam:
                    g += decay * w
                m = settings["beta1"] * m + (1 - settings["beta1"]) * g
                v = settings["beta2"] * v + (1 - settings["beta2"]) * g * g
                hat_m, hat_v = m / (1 - settings["beta1"] ** (t + 1)), v / (1 - settings["beta2"] ** (t + 1))
                step = lr * hat_m / (math.sqrt(hat_v) + settings["eps"])
                w = w - lr * decay * w - step if module is adamw else w - step
            flat.append(w)
        result[name] = np.array(flat).reshape(start.shape)
    return result


@pytest.mark.parametrize("rule", [is_matrix, lambda name, leaf: True], ids=["matrices decay", "all decay"])
@pytest.mark.parametrize("oracle", [by_torch, by_hand])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_oracle(case, oracle, rule):
    module, settings = CASES[case]
    expected = oracle(module, settings, rule)
    assert gap(ours(module, settings, rule), expected) <= 1e-13
    assert gap(ours(module, settings, rule, factor=1.001), expected) > 1e-6  # control: 0.1 % of the rate


@pytest.mark.parametrize("case", [c for c in CASES if "decay" in CASES[c][1] and CASES[c][1]["decay"]])
def test_control_the_rule_of_decay_matters(case):
    module, settings = CASES[case]
    assert gap(ours(module, settings, is_matrix), by_hand(module, settings, lambda n, a: True)) > 1e-5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_float32_stays_float32_and_follows_float64(name):
    module = OPTIMIZERS[name]
    p64, dp64 = drawn(0), drawn(1)
    p32, dp32 = (tree.map(lambda a: a.astype(np.float32), t) for t in (p64, dp64))
    a, sa = module.update(p32, dp32, module.init(p32), lr=0.01, step=1)
    b, _ = module.update(p64, dp64, module.init(p64), lr=0.01, step=1)
    flat = tree.flatten({"p": a, "s": sa})
    assert all(leaf.dtype == np.float32 for leaf in flat.values())
    assert gap(tree.flatten(a), tree.flatten(b)) <= 64 * 2.0**-24


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_without_gradient_and_decay_does_not_move(name):
    module = OPTIMIZERS[name]
    p = {"router": {"selection_bias": np.array([0.5, -0.25])}}
    dp = tree.map(np.zeros_like, p)
    new, _ = module.update(p, dp, module.init(p), lr=1.0, step=1)
    assert np.array_equal(new["router"]["selection_bias"], p["router"]["selection_bias"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_wrong_settings_and_trees_are_refused(name):
    module = OPTIMIZERS[name]
    p = drawn(0)
    with pytest.raises(ConfigError, match="lr must be >= 0"):
        module.update(p, drawn(1), module.init(p), lr=-1.0, step=1)
    with pytest.raises(ConfigError, match=r"\[0, 1\)"):
        module.update(p, drawn(1), module.init(p), lr=1.0, step=1, **{"momentum" if module is sgd else "beta2": 1.0})
    with pytest.raises(ShapeError, match="stack"):
        module.update(p, {k: v for k, v in drawn(1).items() if k != "stack"}, module.init(p), lr=1.0, step=1)


@pytest.mark.parametrize("module", [adam, adamw, sgd], ids=["adam", "adamw", "sgd"])
def test_a_table_of_integers_is_no_parameter(module: Any) -> None:
    """It stays, decay or not, and its state too; nor has it a part in the norm, or in the clipping, of the gradient."""
    p = {"w": np.ones((2, 2)), "router": {"table": np.array([[3, 1], [0, 2]])}}
    dp = {"w": np.full((2, 2), 2.0), "router": {"table": np.zeros((2, 2), np.int64)}}
    clipped, before = clip.by_global_norm(dp, 1.0)
    assert before == 4.0 and np.array_equal(clipped["router"]["table"], dp["router"]["table"])
    assert clipped["router"]["table"].dtype == np.int64 and np.allclose(clipped["w"], 0.5)
    q, state = module.update(p, clipped, module.init(p), lr=0.5, step=1, decay=0.5)
    table = q["router"]["table"]
    assert table.dtype == np.int64 and np.array_equal(table, p["router"]["table"]) and not (q["w"] == p["w"]).any()
    again, _ = module.update(q, clipped, state, lr=0.5, step=2, decay=0.5)
    assert np.array_equal(again["router"]["table"], table)
