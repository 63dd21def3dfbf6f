"""Pruned weights stay exactly 0 while the others learn: every optimiser, every resume, and a model that gets better."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pymoe import presets, verify
from pymoe.backend import tree
from pymoe.backend.errors import DtypeError, GradientError, NonFiniteError, ShapeError
from pymoe.models import lm
from pymoe.models.lm import LMConfig
from pymoe.train import data, evaluate, masking, objective, step
from pymoe.train import presets as runs
from pymoe.train.settings import TrainSettings

IDS = np.random.default_rng(0).integers(0, 11, 700).astype(np.uint8)
IDS.setflags(write=False)
SETTINGS = TrainSettings(steps=20, rows=6, window=7, warmup=2, lr=0.05, dtype="float64", decay=0.2)
PRUNED = ("layers.0.mlp.experts.gate_up_proj", "layers.2.mlp.experts.down_proj", "layers.1.self_attn.qkv_proj")


def config(**settings) -> LMConfig:
    moe = presets.mixtral(d_model=8, d_ff=6, n_experts=5, k=2, **settings)
    return LMConfig(vocab=11, d_model=8, n_layers=3, n_heads=2, context=7, moe=moe, moe_layers=(0, 2), d_ff=10)


def random_masks(p, seed=3, names=PRUNED) -> dict[str, np.ndarray]:
    """About half of each tensor, and one tensor almost whole: 0, some and many entries pruned."""
    rng = np.random.default_rng(seed)
    masks = {name: rng.random(tree.flatten(p)[name].shape) < 0.5 for name in names}
    for mask in masks.values():
        mask.setflags(write=False)
    return masks


def begin(settings=SETTINGS, cfg=None) -> step.State:
    state = step.start(settings, config() if cfg is None else cfg)
    state = step.masked(state, random_masks(state.p))
    for leaf in tree.flatten({"p": state.p, "s": state.slots}).values():
        leaf.setflags(write=False)
    return state


def nonzero(state: step.State) -> dict[str, int]:
    """How many entries at pruned places are not exactly 0, in the parameters and in every tree of the optimiser."""
    found = {}
    for kind, values in {"p": state.p, **state.slots}.items():
        flat = tree.flatten(values)
        found |= {f"{kind}.{n}": int(np.count_nonzero(flat[n][~m])) for n, m in state.masks.items()}
    return found


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_pruned_weights_are_exact_zeros_after_twenty_steps(optimizer, micro_batches):
    s = dataclasses.replace(SETTINGS, optimizer=optimizer, micro_batches=micro_batches)
    state = begin(s)
    before = tree.flatten(state.p)
    for _ in range(20):
        state, _ = step.advance(s, config(), state, IDS)
    assert set(nonzero(state).values()) == {0}
    after = tree.flatten(state.p)
    for name, mask in state.masks.items():
        assert np.all(after[name][mask] != before[name][mask]), name  # the living all learn
        assert not np.signbit(after[name][~mask]).any(), name  # 0, not -0: the same bytes in a file


def test_control_without_the_masks_pruned_weights_move(monkeypatch):
    """The check above fails if the masks are not applied: to the gradient, to the parameters, or to the moments."""
    state = begin()
    dense = state._replace(masks={})
    for _ in range(3):
        dense, _ = step.advance(SETTINGS, config(), dense, IDS)
    assert all(n > 0 for n in nonzero(dense._replace(masks=state.masks)).values())
    monkeypatch.setattr(masking, "apply", lambda values, masks: dict(values))
    after, _ = step.advance(SETTINGS, config(), state, IDS)
    assert all(n > 0 for n in nonzero(after).values())


def test_control_momentum_of_a_pruned_weight_is_taken_away():
    """Moments from before the pruning would go on moving their weights, and would stand in the file."""
    s = dataclasses.replace(SETTINGS, optimizer="sgd")
    state = step.start(s, config())
    state, _ = step.advance(s, config(), state, IDS)
    masks = random_masks(state.p)
    raw = step.State(state.step, masking.apply(state.p, masks), state.slots, masks)
    assert any(n > 0 for n in nonzero(raw).values())
    assert set(nonzero(step.masked(state, masks)).values()) == {0}
    healed, _ = step.advance(s, config(), raw, IDS)
    assert set(nonzero(healed).values()) == {0}


def test_the_gradient_is_the_mask_times_the_dense_gradient_at_the_masked_weights():
    """G11, bitwise: seen through one step of plain descent, p' = p - lr m ⊙ dp."""
    s = dataclasses.replace(SETTINGS, optimizer="sgd", momentum=0.0, decay=0.0, clip=0.0, balance=0.1, warmup=0)
    cfg, state = config(), begin(s)
    x, y = data.batch(IDS, seed=s.seed, step=0, rows=s.rows, window=s.window)
    _, cache = objective.forward(x, state.p, cfg, y, s.loss_weights)
    dense = tree.flatten(objective.backward(1.0, cache)[1])
    after, measured = step.advance(s, cfg, state, IDS)
    p, q = tree.flatten(state.p), tree.flatten(after.p)
    squares = 0.0
    for name, g in dense.items():
        g = np.where(state.masks[name], g, 0.0) if name in state.masks else g
        assert np.array_equal(q[name], p[name] - s.rate(0) * g), name
        squares += float(np.sum(g * g))
    assert measured.norm == pytest.approx(np.sqrt(squares), rel=1e-13)  # the norm is that of the masked gradient
    assert measured.norm < (1 - 1e-5) * np.sqrt(sum(float(np.sum(g * g)) for g in dense.values()))


def test_the_norm_that_clips_is_the_masked_one():
    s = dataclasses.replace(SETTINGS, optimizer="sgd", momentum=0.0, decay=0.0, clip=1e-3, warmup=0)
    state = begin(s)
    after, measured = step.advance(s, config(), state, IDS)
    p, q = tree.flatten(state.p), tree.flatten(after.p)
    moved = np.sqrt(sum(float(np.sum((q[n] - p[n]) ** 2)) for n in p))
    assert measured.norm > s.clip and moved == pytest.approx(s.rate(0) * s.clip, rel=1e-9)


class Masked:
    """The objective as a function of all weights, alive or pruned: w ⊙ m, then the model; its gradient has the mask."""

    def __init__(self, masks, factor=1.0):
        self.masks, self.factor = masks, factor

    def forward(self, ids, p, cfg, targets, weights, draws=None):
        flat = tree.flatten(p)
        flat |= {n: flat[n] * m for n, m in self.masks.items()}
        return objective.forward(ids, tree.unflatten(flat), cfg, targets, weights, draws)

    def backward(self, dy, cache):
        _, dp = objective.backward(dy, cache)
        masked = tree.flatten(masking.apply(dp, self.masks))
        return None, tree.unflatten({n: g * self.factor if n in self.masks else g for n, g in masked.items()})


def test_the_masked_gradient_against_the_complex_step():
    cfg = config()
    p = lm.init(np.random.default_rng(5), cfg, np.float64)
    x, y = data.batch(IDS, seed=0, step=0, rows=2, window=7)
    at = (x, p, cfg, y, {"balance": 0.3, "z": 0.2})
    masks = random_masks(p)
    report = verify.directional(Masked(masks), *at)
    assert report.error < 1e-13
    with pytest.raises(GradientError):
        verify.directional(Masked(masks, 1.001), *at)


def test_a_step_with_masks_repeats_bit_for_bit_and_none_is_as_without():
    state = begin()
    one, m1 = step.advance(SETTINGS, config(), state, IDS)
    two, m2 = step.advance(SETTINGS, config(), state, IDS)
    assert m1 == m2 and all(np.array_equal(a, tree.flatten(two.p)[n]) for n, a in tree.flatten(one.p).items())
    plain = step.start(SETTINGS, config())
    whole = {n: np.ones(tree.flatten(plain.p)[n].shape, bool) for n in PRUNED}
    a, ma = step.advance(SETTINGS, config(), plain, IDS)
    b, mb = step.advance(SETTINGS, config(), step.masked(plain, whole), IDS)
    assert ma == mb and all(np.array_equal(v, tree.flatten(b.p)[n]) for n, v in tree.flatten(a.p).items())


def test_a_selection_bias_and_jitter_live_with_masks():
    cfg = config(selection_bias=True, jitter=0.1)
    state = begin(SETTINGS, cfg)
    after, _ = step.advance(SETTINGS, cfg, state, IDS)
    assert set(nonzero(after).values()) == {0}
    assert np.any(tree.flatten(after.p)["layers.0.mlp.router.selection_bias"] != 0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: {"layers.9.mlp.experts.down_proj": m}, ShapeError, "that are not there"),
        (lambda m: {PRUNED[0]: m[:, 1:]}, ShapeError, r"must have shape \(5, 12, 8\), got \(5, 11, 8\)"),
        (lambda m: {PRUNED[0]: m.astype(np.uint8)}, DtypeError, "must be bool, True where a weight stays"),
    ],
)
def test_masks_of_another_model_are_refused(change, error, message):
    state = step.start(SETTINGS, config())
    masks = change(random_masks(state.p)[PRUNED[0]])
    with pytest.raises(error, match=message):
        step.masked(state, masks)
    with pytest.raises(error, match=message):
        step.advance(SETTINGS, config(), state._replace(masks=masks), IDS)


def test_apply_puts_zeros_over_anything_and_writes_into_nothing():
    w = np.array([[1.0, np.nan], [-np.inf, -0.0]])
    w.setflags(write=False)
    made = masking.apply({"a": {"w": w}, "b": w}, {"a.w": np.array([[True, False], [False, False]])})
    assert made["a"]["w"].tolist() == [[1.0, 0.0], [0.0, 0.0]] and made["b"] is w
    assert masking.broken({"w": w}, {"w": np.array([[False, True], [True, True]])}) == "w"
    assert masking.broken({"w": w}, {"w": np.array([[True, False], [True, True]])}) == "w"  # NaN is not 0
    assert masking.broken({"w": w}, {"w": np.array([[True, True], [True, False]])}) is None


def test_divergence_is_seen_as_before():
    state = begin(SETTINGS, config(nonfinite="propagate"))
    flat = tree.flatten(state.p)
    broken = state._replace(p=tree.unflatten(flat | {"norm.weight": np.full_like(flat["norm.weight"], np.inf)}))
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError, match="diverged at step 1"):
        step.advance(SETTINGS, config(nonfinite="propagate"), broken, IDS)


def test_a_pruned_model_learns_again(tmp_path):
    """The tiny preset: trained, half of its experts' weights pruned by magnitude, trained on with the masks."""
    (tmp_path / "t").write_text("the quick brown fox jumps over the lazy dog.\n" * 40)
    preset = runs.PRESETS["tiny"]
    corpus = data.load(str(tmp_path / "t"), window=8)
    s = dataclasses.replace(preset.settings, steps=150, window=8, rows=8, warmup=5)
    cfg = preset.model(corpus.vocabulary.size, 8)

    def trained(state):
        for _ in range(s.steps):
            state, _ = step.advance(s, cfg, state, corpus.train)
        return state

    def held_out(p):
        return evaluate.loss(p, cfg, corpus.held_out, window=8, rows=16).loss

    dense = trained(step.start(s, cfg))
    flat, masks = tree.flatten(dense.p), {}
    for name, w in flat.items():
        if ".experts." in name:
            order = np.argsort(np.abs(w), axis=None, kind="stable")
            masks[name] = np.ones(w.size, bool)
            masks[name][order[: w.size * 8 // 10]] = False
            masks[name] = masks[name].reshape(w.shape)
    pruned = step.masked(dense, masks)._replace(step=0)
    tuned = trained(pruned)
    assert set(nonzero(tuned).values()) == {0}
    before, cut, after = held_out(dense.p), held_out(pruned.p), held_out(tuned.p)
    assert cut > before + 0.01 and after < cut - 0.5 * (cut - before)
