"""Whole experts: scores by a loop, the cut layer, NAEE by brute force, the threshold of skipping."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymoe import moe, storage, verify
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, DataError, DtypeError, NonFiniteError, ShapeError
from pymoe.io import checkpoint
from pymoe.models import lm
from pymoe.moe import parameters
from pymoe.sparsity import experts, statistics
from pymoe.train import objective
from tests.sparsity import layers

PROPERTY = settings(derandomize=True, database=None, max_examples=30, deadline=None)


def seen(cfg, p, x):
    return statistics.observe(moe.forward(x, p, cfg)[1], cfg)


@pytest.mark.parametrize("changes", [{}, {"norm": "none"}, {"skip": 0.5}])
def test_scores_are_those_of_the_loop(changes):
    cfg, p, x = layers.layer(**changes)
    want = layers.looped(cfg, p, x)
    n = np.maximum(want["count"], 1)
    formulas = {
        "frequency": want["count"], "weighted_frequency": want["weight"], "ean_sum": want["norm"],
        "ean_mean": want["norm"] / n, "reap": want["weighted_norm"] / n,
    }  # fmt: skip
    for name, value in formulas.items():
        got = getattr(experts, name)(seen(cfg, p, x))
        assert np.abs(got - value).max() <= 1e-13 * value.max(), name
        assert np.abs(got * 1.001 - value).max() > 1e-4 * value.max(), name


def test_an_expert_nobody_asked_for_scores_zero_and_goes_first():
    cfg, p, x = layers.layer(n_experts=20, k=1)
    s = seen(cfg, p, x[:3])
    for name in ("frequency", "weighted_frequency", "ean_sum", "ean_mean", "reap"):
        score = getattr(experts, name)(s)
        assert (score[s.count == 0] == 0).all() and (score[s.count > 0] > 0).all(), name
        assert set(np.flatnonzero(s.count)) <= set(experts.keep(score, 5).tolist())


@PROPERTY
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5]), min_size=1, max_size=40), st.data())
def test_keep_takes_the_largest_and_of_equals_the_lowest_id(values, data):
    n = data.draw(st.integers(1, len(values)))
    order = sorted(range(len(values)), key=lambda e: (-values[e], e))
    assert experts.keep(np.array(values), n).tolist() == sorted(order[:n])


def test_keep_refuses():
    for n in (0, 4, -1):
        with pytest.raises(ConfigError, match="between 1 and 3"):
            experts.keep(np.ones(3), n)
    for n in (2.0, True):
        with pytest.raises(ConfigError, match="between 1 and 3"):
            experts.keep(np.ones(3), n)
    with pytest.raises(NonFiniteError, match="expert 1 is NaN"):
        experts.keep(np.array([1.0, np.nan]), 1)
    with pytest.raises(ShapeError):
        experts.keep(np.ones((2, 3)), 1)
    for size, n in ((6, 3), (5, 4)):
        with pytest.raises(ConfigError, match="keep a multiple of 2"):
            experts.keep(np.ones(size), n, n_group=2)


@pytest.mark.parametrize(
    "changes",
    [
        {"bias": True},
        {"router": None, "selection_bias": True, "score": "sigmoid"},
        {"noise": "learned"},
        {"d_shared": 4},
        {"gated": False},
    ],
    ids=str,
)
def test_everything_that_speaks_of_an_expert_is_cut_with_it(changes):
    changes.pop("router", None)
    cfg, p, x = layers.layer(**changes)
    kept = [1, 2, 4, 6]
    q, smaller = experts.cut(p, cfg, [4, 2, 1, 6])
    parameters.check(q, smaller)
    assert smaller.n_experts == 4 and smaller.k == 3
    for name, leaf in tree.flatten(p).items():
        want = leaf if name.startswith("shared") else leaf[kept]
        assert np.array_equal(tree.flatten(q)[name], want), name
    assert verify.gradcheck(moe, x[:6], q, smaller, controls=True).error <= 1e-13


def test_a_cut_layer_saves_and_loads(tmp_path):
    cfg, p, x = layers.layer()
    q, smaller = experts.cut(p, cfg, [0, 5])
    assert smaller.k == 2  # two experts are left
    checkpoint.save(tmp_path / "c", checkpoint.pack(p=q), {"cfg": smaller.to_dict()})
    tensors, state = checkpoint.load(tmp_path / "c")
    again = type(cfg).from_dict(state["cfg"])
    loaded = checkpoint.unpack(tensors, "p", q)
    assert again == smaller and np.array_equal(moe.forward(x, loaded, again)[0].y, moe.forward(x, q, smaller)[0].y)


@PROPERTY
@given(st.integers(0, 10_000), st.booleans())
def test_dropping_an_expert_that_nobody_chose_keeps_every_bit(seed, renormalise):
    """P12, P13: sigmoid scores do not see each other, and integer logits are exact."""
    rule = {"n_experts": 11, "k": 2, "score": "sigmoid", "norm": "l1" if renormalise else "none"}
    cfg, p, _ = layers.layer(seed, **rule)
    rng = np.random.default_rng(seed)
    p = p | {"router": {"weight": rng.integers(-3, 4, (11, layers.D)) / 4.0}}
    x = rng.integers(-3, 4, (4, layers.D)).astype(np.float64)
    before = moe.forward(x, p, cfg)[0]
    kept = np.unique(before.routing.idx)
    after = moe.forward(x, *experts.cut(p, cfg, kept))[0]
    assert np.array_equal(kept[after.routing.idx], before.routing.idx)
    assert np.array_equal(after.y, before.y) and np.array_equal(after.routing.weight, before.routing.weight)


@PROPERTY
@given(st.integers(0, 10_000))
def test_dropping_an_expert_that_nobody_chose_changes_nothing(seed):
    """P12, P13 of a renormalised softmax, which sees the others by rounding only."""
    cfg, p, x = layers.layer(seed, n_experts=11, k=2)
    x = x[:4]
    before = moe.forward(x, p, cfg)[0]
    kept = np.unique(before.routing.idx)
    q, smaller = experts.cut(p, cfg, kept)
    after = moe.forward(x, q, smaller)[0]
    assert np.array_equal(kept[after.routing.idx], before.routing.idx)
    np.testing.assert_allclose(after.y, before.y, rtol=0, atol=4e-15 * np.abs(before.y).max())


def test_tied_experts_are_cut_by_their_stored_ids():
    cfg, p, x = layers.layer(tied=(0, 1, 1, 2, 0, 2, 1))
    q, smaller = experts.cut(p, cfg, [0, 2])
    assert smaller.tied == (0, 1, 0, 1) and smaller.n_experts == 4
    assert np.array_equal(q["router"]["weight"], p["router"]["weight"][[0, 3, 4, 5]])
    assert np.array_equal(q["experts"]["down_proj"], p["experts"]["down_proj"][[0, 2]])
    assert moe.forward(x, q, smaller)[0].y.shape == x.shape


def test_groups_must_lose_the_same_number():
    groups = {"n_experts": 8, "k": 2, "select": "group_limited", "n_group": 4, "topk_group": 2}
    cfg, p, x = layers.layer(**groups)
    q, smaller = experts.cut(p, cfg, [0, 3, 4, 7])
    assert moe.forward(x, q, smaller)[0].y.shape == x.shape
    with pytest.raises(ConfigError, match=r"leave \[2, 1, 1, 0\] in them"):
        experts.cut(p, cfg, [0, 1, 3, 4])
    cfg, p, x = layers.layer(**(groups | {"k": 4}))
    with pytest.raises(ConfigError, match="k=4 choices do not fit into 2 groups of the 1"):
        experts.cut(p, cfg, [0, 3, 4, 7])


def test_scores_keep_and_naee_know_the_groups():
    cfg, p, x = layers.layer(1, n_experts=8, k=2, select="group_limited", n_group=2, topk_group=1)
    kept = experts.keep(experts.reap(seen(cfg, p, x)), 4, n_group=2)
    assert (kept < 4).sum() == 2
    experts.cut(p, cfg, kept)
    whole = moe.forward(x, p, cfg)[0].y
    sets = [a + b for a in itertools.combinations(range(4), 2) for b in itertools.combinations(range(4, 8), 2)]
    errors = {s: np.linalg.norm(moe.forward(x, *experts.cut(p, cfg, s))[0].y - whole) for s in sets}
    assert tuple(experts.naee.exhaustive(x, p, cfg, 4)) == min(errors, key=lambda s: errors[s])
    with pytest.raises(ConfigError, match="36 sets, more than the limit of 35"):
        experts.naee.exhaustive(x, p, cfg, 4, limit=35)
    with pytest.raises(ConfigError, match="keep a multiple of it, not 3"):
        experts.naee.exhaustive(x, p, cfg, 3)
    with pytest.raises(ConfigError, match="use naee.exhaustive"):
        experts.naee.greedy(x, p, cfg, 4)


def test_a_model_whose_layers_were_cut_saves_loads_and_verifies(tmp_path):
    cfg, p, _ = layers.layer(d_model=6)
    dense = {"vocab": 11, "d_model": 6, "n_heads": 3, "context": 7, "std": 0.3}
    model = lm.LMConfig(**dense, n_layers=3, d_ff=5, moe=cfg, moe_layers=(0, 2))
    p = lm.init(np.random.default_rng(0), model, np.float64)
    cut, settings = {}, []
    for i, kept in ((0, [0, 2, 3, 6]), (2, [1, 5])):
        mlp, smaller = experts.cut(p["layers"][str(i)]["mlp"], cfg, kept)
        cut[str(i)] = p["layers"][str(i)] | {"mlp": mlp}
        settings.append(smaller)
    q, model = p | {"layers": p["layers"] | cut}, dataclasses.replace(model, moe=tuple(settings))
    assert lm.LMConfig.from_dict(model.to_dict()) == model
    checkpoint.save(tmp_path / "c", checkpoint.pack(p=q), {"cfg": model.to_dict()})
    tensors, state = checkpoint.load(tmp_path / "c")
    again = lm.LMConfig.from_dict(state["cfg"])
    loaded = checkpoint.unpack(tensors, "p", q)
    ids = np.random.default_rng(1).integers(0, 11, (2, 7))
    assert again == model and np.array_equal(lm.forward(ids, loaded, again)[0].y, lm.forward(ids, q, model)[0].y)
    assert (
        verify.gradcheck(objective, ids[:, :-1], q, model, ids[:, 1:], {"balance": 0.1}, controls=True).error <= 1e-13
    )


def test_what_stands_in_a_cut_expert_does_not_matter():
    cfg, p, x = layers.layer()
    down = p["experts"]["down_proj"].copy()
    down[3] = np.nan
    kept = [0, 1, 2, 4, 5, 6]
    bad, _ = experts.cut(p | {"experts": p["experts"] | {"down_proj": down}}, cfg, kept)
    good, smaller = experts.cut(p, cfg, kept)
    assert np.array_equal(moe.forward(x, bad, smaller)[0].y, moe.forward(x, good, smaller)[0].y)


def test_ids_must_be_integers_and_matrices_arrays():
    cfg, p, _ = layers.layer()
    for kept in ([0.0, 1.0], np.ones(7, bool)):
        with pytest.raises(ConfigError, match="must be ids of experts"):
            experts.cut(p, cfg, kept)
    thin = p["experts"] | {"down_proj": storage.csr.from_dense(p["experts"]["down_proj"])}
    with pytest.raises(DtypeError, match=r"stored CSR: cut the array"):
        experts.cut(p | {"experts": thin}, cfg, [0, 1])


def test_choices_that_no_longer_fit_are_reduced():
    cfg, p, x = layers.layer(k=2, second_threshold=0.5)
    q, smaller = experts.cut(p, cfg, [4])
    assert (smaller.k, smaller.router.second_threshold) == (1, None)
    want = layers.expert(x[0], p, cfg, 4)[1]
    np.testing.assert_allclose(moe.forward(x, q, smaller)[0].y[0], want, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("kept", [[], [0, 0], [7], [-1]])
def test_ids_that_are_none_are_refused(kept):
    cfg, p, _ = layers.layer()
    with pytest.raises(ConfigError, match="none twice"):
        experts.cut(p, cfg, kept)


def test_parameters_of_other_settings_are_refused():
    cfg, p, _ = layers.layer()
    with pytest.raises(ShapeError):
        experts.cut(p | {"router": {}}, cfg, [0])


def masked_output(cfg, p, x, kept):
    """y with the logits of the dropped experts at -inf, one token at a time: NAEE as the paper says it."""
    y = np.zeros(x.shape)
    for t, row in enumerate(x):
        z = {e: float(np.dot(p["router"]["weight"][e], row)) for e in kept}
        top = max(z.values())
        s = {e: math.exp(v - top) for e, v in z.items()}
        chosen = sorted(kept, key=lambda e: (-s[e], e))[: cfg.k]
        total = math.fsum(s[e] for e in chosen)
        for e in chosen:
            y[t] += s[e] / total * np.array(layers.expert(row, p, cfg, e)[1])
    return y


@pytest.mark.parametrize("seed", range(4))
def test_naee_is_the_best_of_all_sets(seed):
    cfg, p, x = layers.layer(seed, n_experts=6, k=2)
    whole = masked_output(cfg, p, x, range(6))
    errors = {s: np.linalg.norm(masked_output(cfg, p, x, s) - whole) for s in itertools.combinations(range(6), 3)}
    best = min(errors, key=lambda s: errors[s])
    ranked = sorted(errors.values())
    assert ranked[1] > ranked[0] * (1 + 1e-9)  # no tie within rounding
    found = experts.naee.exhaustive(x, p, cfg, 3)
    assert tuple(found) == best
    for s, want in list(errors.items())[:5]:
        got = experts.naee.error(x, moe.forward(x, p, cfg)[0].y, p, cfg, s)
        assert abs(got - want) <= 1e-12 * want and abs(1.001 * got - want) > 1e-4 * want
    kept = list(range(6))
    while len(kept) > 3:  # greedy, by the loop
        without = {e: np.linalg.norm(masked_output(cfg, p, x, [i for i in kept if i != e]) - whole) for e in kept}
        kept.remove(min(without, key=lambda e: without[e]))
    assert experts.naee.greedy(x, p, cfg, 3).tolist() == kept


def test_naee_refuses():
    cfg, p, x = layers.layer(n_experts=20, k=2)
    with pytest.raises(ConfigError, match="184,756 sets, more than the limit of 100,000: use naee.greedy"):
        experts.naee.exhaustive(x, p, cfg, 10)
    for search in (experts.naee.exhaustive, experts.naee.greedy):
        with pytest.raises(ConfigError, match="between 1 and 20"):
            search(x, p, cfg, 0)
        down = p["experts"]["down_proj"] * np.nan
        with pytest.raises(NonFiniteError):
            search(x, p | {"experts": p["experts"] | {"down_proj": down}}, cfg, 19)
        assert search(x, p, cfg, 20).tolist() == list(range(20))
        for n in (19.0, True):
            with pytest.raises(ConfigError, match="between 1 and 20"):
                search(x, p, cfg, n)
    idle = sorted(set(range(20)) - set(np.unique(moe.forward(x, p, cfg)[0].routing.idx).tolist()))
    down = p["experts"]["down_proj"].copy()
    down[idle[0]] = np.nan  # the whole layer does not see it, but without others it might be chosen
    for search in (experts.naee.exhaustive, experts.naee.greedy):
        with pytest.raises(NonFiniteError, match="experts.down_proj holds NaN"):
            search(x, p | {"experts": p["experts"] | {"down_proj": down}}, cfg, 19)


def test_the_threshold_is_the_median_ratio():
    cfg, p, x = layers.layer(k=2)
    weight = moe.forward(x, p, cfg)[0].routing.weight
    ratios = sorted(float(b) / float(a) for a, b in weight)
    assert experts.skip_threshold(weight) == pytest.approx(ratios[len(ratios) // 2], rel=1e-15)
    skipping = layers.layer(k=2, skip=experts.skip_threshold(weight))[0]
    kept = moe.forward(x, p, skipping)[0].routing.kept
    assert kept[:, 1].sum() == (len(x) + 1) // 2  # the median itself stays
    assert experts.skip_threshold(np.array([[0.0, 0.0], [0.5, 0.25]])) == 0.5
    with pytest.raises(NonFiniteError, match="token 1"):
        experts.skip_threshold(np.array([[0.5, 0.25], [0.5, np.nan]]))
    with pytest.raises(DataError):
        experts.skip_threshold(np.zeros((3, 2)))
    with pytest.raises(ShapeError):
        experts.skip_threshold(np.ones((3, 3)))


def test_a_search_says_when_it_has_tried_a_set():
    cfg, p, x = layers.layer(n_experts=6, k=2)
    for search, sets in ((experts.naee.exhaustive, math.comb(6, 4)), (experts.naee.greedy, 6 + 5)):
        seen_sets: list[int] = []
        search(x, p, cfg, 4, watch=lambda seen_sets=seen_sets: seen_sets.append(1))
        assert len(seen_sets) == sets


def test_a_router_keeps_what_is_no_row_of_an_expert() -> None:
    """Scales of the input and of all weights stay; the rows of null experts, behind the experts, stay too."""
    more = {"input_norm": "rms", "global_scale": True, "expert_scale": True, "null_experts": ("zero", "copy")}
    cfg, p, x = layers.layer(k=2, norm="l1", **more)
    ids = [0, 2, 3]
    q, smaller = experts.cut(p, cfg, ids)
    rows = [*ids, cfg.n_experts, cfg.n_experts + 1]
    assert all(np.array_equal(q["router"][n], p["router"][n][rows]) for n in ("weight", "expert_scale"))
    assert all(np.array_equal(q["router"][n], p["router"][n]) for n in ("input_scale", "global_scale"))
    moe.forward(x, q, smaller)
    table, q, _ = layers.layer(k=2, select="table", table_size=9)
    with pytest.raises(ConfigError, match=r"router\.table names experts by id"):
        experts.cut(q, table, ids)
