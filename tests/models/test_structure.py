"""What must hold whatever the numbers are: causality, padding, tying, dropout, routers, limits, bad input."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from pymoe import presets, verify
from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, DtypeError, IndexRangeError, ShapeError
from pymoe.models import ClassifierConfig, LMConfig, Seq2SeqConfig, classifier, lm, seq2seq

from .cases import MIXTRAL, SIZES, B, Case, R, S, distance, frozen, parameters

U64 = 2.0**-53
LM = Case("lm", LMConfig(**SIZES, n_layers=2, moe=MIXTRAL, moe_layers=(1,)), (1,))
CLASSIFIER = Case("classifier", ClassifierConfig(**SIZES, n_layers=2, n_classes=4, moe=MIXTRAL, moe_layers=(0,)), (0,))
SEQ2SEQ = Case(
    "seq2seq", Seq2SeqConfig(**SIZES, n_layers=1, decoder_layers=2, moe=MIXTRAL, moe_layers=(0,)), ((0,), (0,))
)
ALL = pytest.mark.parametrize("case", [LM, CLASSIFIER, SEQ2SEQ], ids=lambda c: c.name)


def with_token(ids, at, by=1):
    moved = np.array(ids)
    moved[:, at] = (moved[:, at] + by) % SIZES["vocab"]
    return frozen(moved)


# --- who sees whom ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 3, S - 1])
def test_a_token_changes_no_earlier_logits(at):
    ids, p, cfg = LM.args()
    before, _ = lm.forward(ids, p, cfg)
    after, _ = lm.forward(with_token(ids, at), p, cfg)
    assert distance(after.logits[:, :at], before.logits[:, :at]) <= 4 * U64
    assert np.all(np.max(np.abs(after.logits[:, at:] - before.logits[:, at:]), axis=-1) > 1e-6)  # the control


def test_a_loss_at_a_position_has_no_gradient_in_later_tokens():
    ids, p, cfg = LM.args()
    ids = frozen(np.arange(S)[None, :])  # every token once, so that its row of the table is its gradient
    p = {**p, "lm_head": p["embed_tokens"]}
    untied = LMConfig(**{**SIZES, "n_layers": 2, "tie": False})
    p = {**parameters(untied), "embed_tokens": p["embed_tokens"]}
    out, cache = lm.forward(ids, p, untied)
    dlogits = np.zeros_like(out.logits)
    dlogits[:, 3] = np.random.default_rng(0).standard_normal(out.logits.shape[-1])
    rows = np.any(lm.backward(frozen(dlogits), cache)[1]["embed_tokens"]["weight"] != 0, axis=1)
    assert rows[:4].all() and not rows[4:].any()


def test_the_encoder_sees_both_ways_and_the_decoder_only_back():
    ids, p, cfg, decoder_ids = SEQ2SEQ.args()
    base = seq2seq.forward(ids, p, cfg, decoder_ids)[0].logits
    later = seq2seq.forward(ids, p, cfg, with_token(decoder_ids, 4))[0].logits
    assert distance(later[:, :4], base[:, :4]) <= 4 * U64 < distance(later[:, 4:], base[:, 4:])
    source = seq2seq.forward(with_token(ids, S - 1), p, cfg, decoder_ids)[0].logits
    assert np.all(np.max(np.abs(source - base), axis=-1) > 1e-6)


# --- padding ---------------------------------------------------------------------------------------------------


@ALL
def test_what_stands_in_the_padding_changes_nothing(case):
    ids, p, cfg, *rest = case.args()
    keywords = Case("", cfg, masked=True).keywords()
    mask = keywords["mask"]
    garbage = frozen(np.where(mask, ids, (ids + 5) % cfg.vocab))
    real = mask if case is LM else keywords.get("decoder_mask", np.ones(B, bool))
    out, c = case.module.forward(ids, p, cfg, *rest, **keywords)
    other, c_other = case.module.forward(garbage, p, cfg, *rest, **keywords)
    assert np.array_equal(out.logits[real], other.logits[real])
    assert out.losses == other.losses
    one = tree.flatten(case.module.backward(None, c, dict.fromkeys(out.losses, 1.0))[1])
    two = tree.flatten(case.module.backward(None, c_other, dict.fromkeys(out.losses, 1.0))[1])
    for name, g in one.items():
        assert np.array_equal(g, two[name]), name
    unmasked = dict(keywords, mask=None)
    a, b = (case.module.forward(i, p, cfg, *rest, **unmasked)[0] for i in (ids, garbage))
    assert a.losses[case.module.LOSS] != b.losses[case.module.LOSS]  # the control: without the mask it does matter


@ALL
def test_padding_to_the_right_is_as_if_it_were_not_there(case):
    ids, p, cfg, *rest = case.args()
    padded = frozen(np.concatenate([ids, np.full((B, 3), 7)], axis=1))
    mask = np.ones(padded.shape, bool)
    mask[:, S:] = False
    out, _ = case.module.forward(ids, p, cfg, *rest)
    wide, _ = case.module.forward(padded, p, cfg, *rest, mask=frozen(mask))
    logits = wide.logits[:, :S] if case is LM else wide.logits
    assert distance(logits, out.logits) <= 16 * U64
    for name, value in out.losses.items():
        assert abs(wide.losses[name] - value) <= 16 * U64 * value
    bare, _ = case.module.forward(padded, p, cfg, *rest)
    if case is not LM:  # the control; a causal model's logits do not see the right side anyway
        assert distance(bare.logits, out.logits) > 1e-6
    assert bare.losses != wide.losses


@ALL
def test_a_batch_is_its_rows_and_empty_batches_are_defined(case):
    ids, p, cfg, *rest = case.args()
    out, _ = case.module.forward(ids, p, cfg, *rest)
    for b in range(B):
        alone, _ = case.module.forward(ids[b : b + 1], p, cfg, *(r[b : b + 1] for r in rest))
        assert distance(alone.logits[0], out.logits[b]) <= 16 * U64
    targets = np.zeros(0 if case is CLASSIFIER else (0, R if rest else S), int)
    none, cache = case.module.forward(ids[:0], p, cfg, *(r[:0] for r in rest), targets=targets)
    assert none.logits.shape == (0, *out.logits.shape[1:])
    assert {name: float(v) for name, v in none.losses.items()} == dict.fromkeys(none.losses, 0.0)
    _, dp = case.module.backward(None, cache, dict.fromkeys(none.losses, 1.0))
    assert not any(g.any() for g in tree.flatten(dp).values())


def test_no_token_at_all():
    ids, p, cfg = LM.args()
    out, cache = lm.forward(ids[:, :0], p, cfg, targets=ids[:, :0])
    assert out.logits.shape == (B, 0, SIZES["vocab"]) and float(out.losses["lm"]) == 0.0
    assert not any(g.any() for g in tree.flatten(lm.backward(None, cache, {"lm": 1.0})[1]).values())
    ids, p, cfg = CLASSIFIER.args()
    mask = frozen(np.zeros(ids.shape, bool))
    out, cache = classifier.forward(ids, p, cfg, mask=mask)
    assert np.array_equal(out.logits, np.broadcast_to(p["classifier"]["bias"], out.logits.shape))


# --- tied weights ----------------------------------------------------------------------------------------------


def test_the_gradient_of_a_tied_table_is_the_sum_over_its_readers():
    ids, p, cfg = LM.args()
    untied = LMConfig(**{**SIZES, "n_layers": 2, "moe": MIXTRAL, "moe_layers": (1,), "tie": False})
    keywords = LM.keywords()
    _, cache = lm.forward(ids, p, cfg, **keywords)
    _, c_untied = lm.forward(ids, {**p, "lm_head": p["embed_tokens"]}, untied, **keywords)
    _, dp = lm.backward(None, cache, {"lm": 1.0, "z": 0.1})
    _, d_untied = lm.backward(None, c_untied, {"lm": 1.0, "z": 0.1})
    embed, head = d_untied["embed_tokens"]["weight"], d_untied["lm_head"]["weight"]
    assert np.array_equal(dp["embed_tokens"]["weight"], embed + head)
    assert distance(embed, embed + head) > 1e-3 and distance(head, embed + head) > 1e-3


def test_the_gradient_of_a_table_shared_by_three_is_the_sum_over_three():
    shared = Seq2SeqConfig(**SIZES, n_layers=1, share_embeddings=True)
    apart = Seq2SeqConfig(**SIZES, n_layers=1, tie=False)
    case = Case("", shared)
    ids, p, _, decoder_ids = case.args()
    table = p["decoder"]["embed_tokens"]
    q = {"encoder": {"embed_tokens": table, **p["encoder"]}, "decoder": p["decoder"], "lm_head": table}
    _, dp = seq2seq.backward(None, seq2seq.forward(ids, p, shared, decoder_ids, **case.keywords())[1], {"seq2seq": 1.0})
    _, dq = seq2seq.backward(None, seq2seq.forward(ids, q, apart, decoder_ids, **case.keywords())[1], {"seq2seq": 1.0})
    parts = [dq["encoder"]["embed_tokens"]["weight"], dq["decoder"]["embed_tokens"]["weight"], dq["lm_head"]["weight"]]
    assert distance(dp["decoder"]["embed_tokens"]["weight"], sum(parts)) <= 4 * U64
    assert all(distance(sum(parts) - part, sum(parts)) > 1e-3 for part in parts)


# --- random draws ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [LM, SEQ2SEQ], ids=lambda c: c.name)
def test_dropout_masks_are_values_and_its_gradient_is_right(case):
    cfg = type(case.cfg)(**{**{f: getattr(case.cfg, f) for f in case.cfg.__dataclass_fields__}, "dropout": 0.3})
    case = Case("", cfg, case.sparse)
    args, keywords = case.args(), case.keywords()
    lengths = (B, S, R) if case.module is seq2seq else (B, S)
    draws = case.module.draw(np.random.default_rng(5), cfg, *lengths)
    again = case.module.draw(np.random.default_rng(5), cfg, *lengths)
    report = verify.gradcheck(case.module, *args, **keywords, draws=draws, mode="directional")
    assert report.error < 1e-13
    out = case.module.forward(*args, **keywords, draws=draws)[0].logits
    assert np.array_equal(out, case.module.forward(*args, **keywords, draws=again)[0].logits)
    other = case.module.draw(np.random.default_rng(6), cfg, *lengths)
    assert distance(out, case.module.forward(*args, **keywords, draws=other)[0].logits) > 1e-3
    assert distance(out, case.module.forward(*args, **keywords)[0].logits) > 1e-3  # without draws: evaluation


def test_dropout_keeps_the_expected_share_and_nothing_is_drawn_for_nothing():
    cfg = LMConfig(**{**SIZES, "n_layers": 2, "dropout": 0.3})
    draws = lm.draw(np.random.default_rng(0), cfg, 40, 13)
    masks = [draws.embedding] + [m for b in draws.blocks for m in (b.attention, b.feed_forward)]
    assert len(masks) == 5 and all(abs(m.mean() - 0.7) < 0.03 and m.shape == (40, 13, 5) for m in masks)
    assert not any(np.array_equal(masks[0], m) for m in masks[1:])
    assert lm.draw(np.random.default_rng(0), LM.cfg, 2, 3) is None


ROUTERS = {
    "noisy top-k": presets.noisy_topk(5, 8, 6, 2),
    "switch with jitter": presets.switch(5, 8, 6, jitter=0.2),
    "gshard, random second": presets.gshard(5, 8, 6, second_threshold=0.5),
    "deepseek v3": presets.deepseek_v3(5, 8, 6, 2, n_group=3, topk_group=2, d_shared=4),
    "expert choice": presets.expert_choice(5, 8, 6, 2),
    "biases": presets.mixtral(5, 8, 6, 2, bias=True, router_bias=True, gated=False, activation="gelu"),
}


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("masked", [False, True])
def test_any_router_in_any_model(router, masked):
    case = Case("", LMConfig(**{**SIZES, "n_layers": 2, "moe": ROUTERS[router], "dropout": 0.1}), masked=masked)
    draws = lm.draw(np.random.default_rng(3), case.cfg, B, S)
    report = verify.gradcheck(lm, *case.args(), **case.keywords(), draws=draws, mode="directional")
    assert report.error < 1e-13


# --- purity ----------------------------------------------------------------------------------------------------


@ALL
def test_one_cache_can_be_used_twice_and_nothing_is_written_into(case):
    args, keywords = case.args(), Case("", case.cfg, masked=True).keywords()
    before = copy.deepcopy((args[0], args[1], keywords))
    out, cache = case.module.forward(*args, **keywords)
    weights = dict.fromkeys(out.losses, 0.7)
    verify.walk.freeze(cache)
    first = tree.flatten(case.module.backward(None, cache, weights)[1])
    second = tree.flatten(case.module.backward(None, cache, weights)[1])
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert np.array_equal(before[0], args[0])
    now = tree.flatten(args[1])
    assert all(np.array_equal(a, now[name]) for name, a in tree.flatten(before[1]).items())


# --- start and settings ----------------------------------------------------------------------------------------


def test_matrices_start_as_documented():
    wide = presets.noisy_topk(64, 96, 8, 2, gated=True, d_shared=80)
    cfg = Seq2SeqConfig(vocab=300, d_model=64, n_layers=2, decoder_layers=3, n_heads=4, d_ff=90, context=8, moe=wide,
                        moe_layers=(1,), decoder_moe_layers=(2,), std=0.05, tie=False)  # fmt: skip
    p = tree.flatten(seq2seq.init(np.random.default_rng(0), cfg, np.float64))
    for name, a in p.items():
        last = name.split(".")[-1]
        if last == "noise_weight" or "norm" in name:
            assert np.array_equal(a, np.full(a.shape, 1.0 if "norm" in name else 0.0)), name
            continue
        additions = 3 * 3 if name.startswith("decoder") else 2 * 2
        expected = 0.05 / np.sqrt(additions) if last in ("o_proj", "down_proj") else 0.05
        assert abs(a.std() / expected - 1) < 5 / np.sqrt(2 * a.size), name  # 5 standard errors
        assert abs(a.mean()) < 5 * expected / np.sqrt(a.size), name


def test_the_two_precisions_start_alike_and_the_dtype_is_as_asked():
    low, high = (tree.flatten(lm.init(np.random.default_rng(0), LM.cfg, d)) for d in (np.float32, np.float64))
    assert {a.dtype for a in low.values()} == {np.dtype(np.float32)}
    assert {a.dtype for a in high.values()} == {np.dtype(np.float64)}
    for name, a in low.items():
        assert distance(a, high[name]) < 4 * 2.0**-24
    with pytest.raises(ConfigError, match="floating point, got dtype int64"):
        lm.init(np.random.default_rng(0), LM.cfg, np.int64)


@ALL
def test_settings_survive_json(case):
    text = json.dumps(case.cfg.to_dict())
    assert type(case.cfg).from_dict(json.loads(text)) == case.cfg
    with pytest.raises(ConfigError, match="has no settings .'colour'"):
        type(case.cfg).from_dict({**case.cfg.to_dict(), "colour": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab": 0}, "vocab must be an integer of at least 1, got 0"),
        ({"n_layers": 0}, "n_layers must be"),
        ({"context": 1.5}, "context must be"),
        ({"n_heads": 5}, "n_heads must be a multiple of n_kv_heads"),
        ({"head_dim": None}, "n_heads must divide d_model"),
        ({"head_dim": 3}, "rotary positions need an even head width, got 3"),
        ({"rope_base": 0.5}, "rope_base must be above 1"),
        ({"d_ff": None}, r"the layers \[0, 1\] have a dense feed-forward"),
        ({"d_ff": None, "moe": MIXTRAL, "moe_layers": (0,)}, r"the layers \[1\] have a dense"),
        ({"moe": presets.mixtral(6, 8, 6, 2)}, "d_model=5, got 6"),
        ({"moe": MIXTRAL, "moe_layers": (0, 2)}, "distinct numbers from 0 to 1"),
        ({"moe": MIXTRAL, "moe_layers": (0, 0)}, "distinct numbers from 0 to 1"),
        ({"moe": MIXTRAL, "moe_layers": "some"}, "moe_layers must be one of all"),
        ({"norm": "batch"}, "must be one of rms, layer"),
        ({"activation": "swish"}, "activation must be one of"),
        ({"dropout": 1.0}, "dropout must lie in"),
        ({"label_smoothing": -0.1}, "label_smoothing must lie in"),
        ({"std": float("nan")}, "std must be a finite number"),
    ],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        LMConfig(**{**SIZES, "n_layers": 2, **settings})


def test_a_shared_table_needs_one_vocabulary():
    with pytest.raises(ConfigError, match="needs one vocabulary, got vocab=11 and target_vocab=12"):
        Seq2SeqConfig(**SIZES, n_layers=1, share_embeddings=True, target_vocab=12)


# --- bad input -------------------------------------------------------------------------------------------------


def test_bad_input_is_refused_with_a_reason():
    ids, p, cfg = LM.args()
    with pytest.raises(DtypeError, match="ids must be integers, got float64"):
        lm.forward(ids * 1.0, p, cfg)
    with pytest.raises(ShapeError, match=r"ids must have shape \(batch, sequence\), got \(7,\)"):
        lm.forward(ids[0], p, cfg)
    with pytest.raises(ShapeError, match="14 tokens, more than the context of 13"):
        lm.forward(np.zeros((1, 14), int), p, cfg)
    with pytest.raises(IndexRangeError):
        lm.forward(ids + 11, p, cfg)
    with pytest.raises(IndexRangeError):
        lm.forward(ids - 11, p, cfg)
    with pytest.raises(IndexRangeError):
        lm.forward(ids, p, cfg, targets=ids + 11)
    with pytest.raises(ShapeError, match=r"mask must have shape \(3, 7\), got \(3, 6\)"):
        lm.forward(ids, p, cfg, mask=np.ones((3, 6), bool))
    with pytest.raises(DtypeError, match="mask must be bool, True = a real token, got int64"):
        lm.forward(ids, p, cfg, mask=np.ones((3, 7), int))
    _, cache = lm.forward(ids, p, cfg)
    with pytest.raises(ConfigError, match=r"cotangents came for \['lm'\]; 'lm' needs targets in forward"):
        lm.backward(None, cache, {"lm": 1.0})
    with pytest.raises(ConfigError, match=r"the losses \['balance', 'z'\], but cotangents came for \['load'\]"):
        lm.backward(None, cache, {"load": 1.0})
    with pytest.raises(ShapeError, match="dlogits must have shape"):
        lm.backward(np.zeros((3, 7, 5)), cache)
    ids, p, cfg, decoder_ids = SEQ2SEQ.args()
    with pytest.raises(ShapeError, match="one batch size, got 3 and 2"):
        seq2seq.forward(ids, p, cfg, decoder_ids[:2])


def test_targets_that_are_all_ignored_give_no_loss_and_no_gradient():
    ids, p, cfg = LM.args()
    out, cache = lm.forward(ids, p, cfg, targets=np.full_like(ids, -100))
    assert float(out.losses["lm"]) == 0.0
    assert not any(g.any() for g in tree.flatten(lm.backward(None, cache, {"lm": 1.0})[1]).values())
