"""ŷ = Σ w_i f_i: each rule against a loop, its gradient against the complex step, what is learnt against the best."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
import scipy.special

from pymoe import moe, verify
from pymoe.backend.errors import ConfigError, GradientError
from pymoe.moe import router
from pymoe.moe.router_config import RouterConfig
from pymoe.pipeline.ensemble import fused, gate, rules
from pymoe.sharing import integrate

E, N, C, D = 3, 11, 4, 5


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def answers(seed: int = 0, n: int = N) -> np.ndarray:
    log_p = scipy.special.log_softmax(2 * rng(seed).standard_normal((E, n, C)), axis=-1)
    log_p.setflags(write=False)
    return log_p


def rows(seed: int = 1, n: int = N) -> np.ndarray:
    x = rng(seed).standard_normal((n, D)) * (rng(seed).random((n, D)) < 0.7)
    x.setflags(write=False)
    return x


def targets(seed: int = 2, n: int = N) -> np.ndarray:
    return rng(seed).integers(0, C, n)


def loop(name: str, log_p: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """ŷ one row, one model, one class at a time; lam (E, N)."""
    out = np.zeros(log_p.shape[1:])
    for n in range(log_p.shape[1]):
        for i in range(len(log_p)):
            for c in range(C):
                if name == "vote":
                    best = max(range(C), key=lambda j: (log_p[i, n, j], -j))
                    out[n, c] += lam[i, n] * (best == c)
                elif name == "logit_average":
                    out[n, c] += lam[i, n] * log_p[i, n, c]
                else:
                    out[n, c] += lam[i, n] * math.exp(log_p[i, n, c])
        if name == "logit_average":
            top = [math.exp(v) for v in out[n]]
            out[n] = [v / sum(top) for v in top]
    return out


@pytest.mark.parametrize("name", ["vote", "average", "weights", "logit_average", "distance", "posterior", "gate"])
@pytest.mark.parametrize("sparse", [False, True])
def test_each_rule_is_its_loop(name: str, sparse: bool) -> None:
    log_p, x = answers(), rows()
    given = scipy.sparse.csr_array(x) if sparse else x
    lam = np.full((E, N), 1 / E)
    if name == "weights":
        rule = rules.given(name, weights=[1.0, 2.0, 5.0])
        lam = np.repeat(np.array([[1.0], [2.0], [5.0]]) / 8, N, axis=1)
    elif name == "distance":
        centres = rng(5).random((E, D))
        rule = rules.given(name, centres=centres, temperature=0.5, k=2)
        for n in range(N):
            length = math.sqrt(sum(v * v for v in x[n])) or 1.0
            d = [sum((x[n, j] / length - centre[j]) ** 2 for j in range(D)) for centre in centres]
            near = sorted(range(E), key=lambda i: (d[i], i))[:2]
            mass = [math.exp(-d[i] / 0.5) if i in near else 0.0 for i in range(E)]
            lam[:, n] = [m / sum(mass) for m in mass]
    elif name == "posterior":
        w, b = rng(6).standard_normal((E, D)), rng(7).standard_normal(E)
        rule = rules.given(name, posterior=(w, b))
        for n in range(N):
            mass = [math.exp(sum(w[e, j] * x[n, j] for j in range(D)) + b[e]) for e in range(E)]
            lam[:, n] = [m / sum(mass) for m in mass]
    elif name == "gate":
        w, b = rng(6).standard_normal((E, D)), rng(7).standard_normal(E)
        rule = rules.Rule("gate", 2, arrays={"weight": w, "bias": b})
        for n in range(N):
            c = [sum(w[e, j] * x[n, j] for j in range(D)) + b[e] for e in range(E)]
            near = sorted(range(E), key=lambda e: (-c[e], e))[:2]
            mass = [math.exp(c[e]) if e in near else 0.0 for e in range(E)]
            lam[:, n] = [m / sum(mass) for m in mass]
    else:
        rule = rules.given(name)
    assert np.abs(rule.weights(given, E) - lam).max() <= 1e-13
    y = rule.combine(log_p, given)
    wanted = loop(name, log_p, lam)
    assert np.abs(y - wanted).max() <= 1e-13 < np.abs(1.001 * y - wanted).max()
    assert np.abs(y.sum(1) - 1).max() <= 1e-13


def test_the_articles_example_added_up_right() -> None:
    log_p = np.log(np.array([[[0.9, 0.1]], [[0.8, 0.2]]]))
    y = rules.given("weights", weights=[0.6, 0.4]).combine(log_p, np.zeros((1, 1)))
    assert np.abs(y - [0.86, 0.14]).max() <= 1e-15
    assert np.abs(y - [0.54, 0.26]).max() > 0.1  # what the article prints


def test_the_gate_is_the_router_of_a_moe_layer() -> None:
    x, w, b = rows(3), rng(6).standard_normal((E, D)), rng(7).standard_normal(E)
    cfg = RouterConfig(n_experts=E, k=2, norm="l1", bias=True, losses=())
    (routing, _), cache = router.forward(x, {"weight": w, "bias": b}, cfg)
    wanted = np.zeros((N, E))
    np.put_along_axis(wanted, routing.idx, routing.weight, axis=1)
    lam, routes = gate.route(scipy.sparse.csr_array(x), w, b, k=2)
    assert np.abs(lam.T - wanted).max() <= 1e-15
    dlam = rng(8).standard_normal((E, N))
    _, dp = router.backward(np.take_along_axis(dlam.T, routing.idx, axis=1), {}, cache)
    d = gate.route_backward(dlam, routes)
    assert np.abs(d["weight"] - dp["weight"]).max() <= 1e-14 and np.abs(d["bias"] - dp["bias"]).max() <= 1e-14
    assert moe is not None


def like(parameter: Any, *data: Any) -> Any:
    """The data in the precision of the parameter."""
    return tuple(a if a.dtype.kind == "i" else a.astype(parameter.real.dtype) for a in data)


class Theta:
    """``rules.forward`` as an op of θ."""

    def __init__(self, log_p: Any, y: Any, s: Any, factor: float = 1.0) -> None:
        self.of, self.factor = (log_p, y, s), factor

    def forward(self, theta: Any) -> Any:
        log_p, y, s = like(theta, *self.of)
        return rules.forward(log_p, theta, y, row_weight=s)

    def backward(self, dloss: Any, cache: Any) -> Any:
        return self.factor * rules.backward(dloss, cache)["theta"], {}


class Gate(Theta):
    """``gate`` as an op of R and r."""

    def __init__(self, *args: Any, x: Any, k: int | None, factor: float = 1.0) -> None:
        super().__init__(*args, factor=factor)
        self.x, self.k = x, k

    def forward(self, w: Any, b: Any) -> Any:
        log_p, y, s, x = like(w, *self.of, self.x)
        return gate.forward(x, w, b, log_p, y, row_weight=s, k=self.k, l2=0.3)

    def backward(self, dloss: Any, cache: Any) -> Any:
        d = gate.backward(dloss, cache)
        return d["weight"], {"b": self.factor * d["bias"]}


class Fused:
    """``fused`` as an op of its four parameters."""

    def __init__(self, x: Any, y: Any, s: Any, k: int | None, factor: float = 1.0) -> None:
        self.of, self.k, self.factor = (x, y, s), k, factor
        self.anchor = (rng(1).standard_normal((C, D)), rng(2).standard_normal(C))

    def forward(self, weight: Any, bias: Any, router: Any, router_bias: Any) -> Any:
        x, y, s = like(weight, *self.of)
        p = {"weight": weight, "bias": bias, "router": router, "router_bias": router_bias}
        return fused.forward(x, p, y, row_weight=s, k=self.k, balance=0.7, l2=0.2, anchor=self.anchor)

    def backward(self, dloss: Any, cache: Any) -> Any:
        _, d = fused.backward(dloss, cache)
        d["router"] = self.factor * d["router"]
        return d.pop("weight"), d


S = rng(9).random(N) + 0.1
SUBJECTS: dict[str, tuple[Any, tuple[np.ndarray, ...]]] = {
    "theta": (lambda f: Theta(answers(), targets(), S, f), (rng(3).standard_normal(E),)),
    **{
        f"gate-{k}": (
            lambda f, k=k: Gate(answers(), targets(), S, x=rows(), k=k, factor=f),
            (rng(3).standard_normal((E, D)), rng(4).standard_normal(E)),
        )
        for k in (None, 2)
    },
    **{
        f"fused-{k}": (
            lambda f, k=k: Fused(rows(), targets(), S, k, f),
            (
                rng(3).standard_normal((E, C, D)), rng(4).standard_normal((E, C)),
                rng(5).standard_normal((E, D)), rng(6).standard_normal(E),
            ),
        )
        for k in (None, 2)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_gradients_are_those_of_the_complex_step(name: str) -> None:
    made, args = SUBJECTS[name]
    assert verify.gradcheck(made(1.0), *args).error <= 1e-13
    with pytest.raises(GradientError, match="gradient of"):
        verify.gradcheck(made(1.001), *args)


@pytest.mark.parametrize("k", [None, 2])
def test_the_fused_layer_is_a_loop_over_rows_and_experts(k: int | None) -> None:
    x, y = rows(), targets()
    p = {"weight": rng(3).standard_normal((E, C, D)), "bias": rng(4).standard_normal((E, C)),
         "router": rng(5).standard_normal((E, D)), "router_bias": rng(6).standard_normal(E)}  # fmt: skip
    total, used = 0.0, [0.0] * E
    for n in range(N):
        c = [p["router"][e] @ x[n] + p["router_bias"][e] for e in range(E)]
        near = sorted(range(E), key=lambda e: -c[e])[: k or E]
        mass = {e: math.exp(c[e]) for e in near}
        z = sum(mass[e] / sum(mass.values()) * (p["weight"][e] @ x[n] + p["bias"][e]) for e in near)
        total += S[n] * (math.log(sum(math.exp(v) for v in z)) - z[y[n]])
        for e in near:
            used[e] += S[n] / S.sum() * mass[e] / sum(mass.values())
    spread = float(np.var(used) / np.mean(used) ** 2)  # CV²
    wanted = total / S.sum() + 0.4 * spread + 0.05 * sum(float((a**2).sum()) for a in p.values())
    for given in (x, scipy.sparse.csr_array(x)):
        loss, cache = fused.forward(given, p, y, row_weight=S, k=k, l2=0.1, balance=0.4)
        assert abs(loss - wanted) <= 1e-13 * wanted < abs(1.001 * loss - wanted)
    sparse = fused.backward(1.0, cache)[1]
    dense = fused.backward(1.0, fused.forward(x, p, y, row_weight=S, k=k, l2=0.1, balance=0.4)[1])[1]
    assert all(np.abs(sparse[name] - dense[name]).max() <= 1e-15 for name in p)


@pytest.mark.parametrize("weighted", [False, True])
def test_weights_by_expectation_and_by_gradient_are_the_most_likely(weighted: bool) -> None:
    log_p, y = answers(3, 60), targets(4, 60)
    s = rng(5).random(60) + 0.1 if weighted else None
    said = np.exp(np.take_along_axis(log_p, y[None, :, None], -1)[..., 0])
    share = np.full(60, 1 / 60) if s is None else s / s.sum()
    best = scipy.optimize.minimize(
        lambda v: -float(share @ np.log(scipy.special.softmax(v) @ said)), np.zeros(E), method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 4000},
    )  # fmt: skip
    for name in ("validation", "gradient"):
        lam = rules.learnt(name, log_p, y, row_weight=s).arrays["weights"]
        assert abs(lam.sum() - 1) <= 1e-12
        assert -float(share @ np.log(lam @ said)) <= best.fun + 1e-5
    equal = -float(share @ np.log(np.full(E, 1 / E) @ said))  # control: equal weights are worse
    assert equal > best.fun + 1e-3


def test_a_row_of_weight_two_is_two_rows_to_everything_that_is_learnt() -> None:
    log_p, y, x = answers(3, 20), targets(4, 20), rows(5, 20)
    s = np.where(np.arange(20) % 3 == 0, 2.0, 1.0)
    twice = np.repeat(np.arange(20), s.astype(int))
    for name in rules.LEARNT:
        one = rules.learnt(name, log_p, y, x=x, row_weight=s)
        two = rules.learnt(name, log_p[:, twice], y[twice], x=x[twice])
        assert np.abs(one.combine(log_p, x) - two.combine(log_p, x)).max() <= 1e-6, name


def test_the_gate_and_stacking_learn_who_knows_what() -> None:
    n = 400
    x = rows(1, n)
    y = rng(2).integers(0, 2, n)
    sure = np.log(np.where(np.eye(2)[y] > 0, 0.95, 0.05))
    blind = np.full((n, 2), np.log(0.5))
    first = (x[:, 0] > 0)[:, None]  # model 0 knows the rows with x_0 > 0, model 1 the others
    log_p = np.stack([np.where(first, sure, blind), np.where(first, blind, sure)])
    for k in (None, 1):
        rule = rules.learnt("gate", log_p[:, :300], y[:300], x=x[:300], k=k)
        lam = rule.weights(x[300:], 2)
        clear = np.abs(x[300:, 0]) > 0.3
        assert (lam.argmax(0)[clear] == (x[300:, 0] <= 0)[clear]).mean() > 0.95
        assert k is None or ((lam == 0) | (lam == 1)).all()
        right = rule.combine(log_p[:, 300:], x[300:]).argmax(1) == y[300:]
        assert right[clear].mean() > 0.97
    upside_down = log_p[:, :, ::-1]  # an average of these is always wrong
    rule = rules.learnt("stacking", upside_down[:, :300], y[:300])
    assert (rule.combine(upside_down[:, 300:], x[300:]).argmax(1) == y[300:]).mean() == 1.0
    wrong = rules.given("average").combine(upside_down[:, 300:], x[300:])
    assert (wrong.argmax(1) == y[300:]).mean() == 0.0
    with pytest.raises(ConfigError, match="there is no route"):
        rule.weights(x, 2)


def test_models_that_are_never_right_weigh_the_same() -> None:
    log_p = np.log(np.array([[[0.9, 0.1]], [[0.8, 0.2]]]))
    assert rules.learnt("accuracy", log_p, np.array([1])).arrays["weights"].tolist() == [0.5, 0.5]


def test_soft_votes_and_hard_votes_may_differ() -> None:
    log_p = np.log(np.array([[[0.6, 0.4]], [[0.6, 0.4]], [[0.01, 0.99]]]))
    x = np.zeros((1, 1))
    assert rules.given("vote").combine(log_p, x).argmax() == 0
    assert rules.given("average").combine(log_p, x).argmax() == 1
    assert integrate.hard_vote(np.exp(log_p)).tolist() == [0]


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: rules.given("mean"), "integration must be one of"),
        (lambda: rules.given("weights"), "needs weights"),
        (lambda: rules.given("weights", weights=[-1.0, 2.0]), "numbers >= 0"),
        (lambda: rules.given("weights", weights=[0.0, 0.0]), "not all 0"),
        (lambda: rules.given("distance"), "needs the centres"),
        (lambda: rules.given("posterior"), "regression of the subset"),
        (lambda: rules.given("gate"), "learnt from held-out"),
        (lambda: rules.learnt("vote", answers(), targets()), "not learnt"),
    ],
)
def test_bad_settings_say_what_to_do(call: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        call()
