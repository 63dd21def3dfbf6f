"""Generation: with the cache as without, sampling from the distribution it says, limits and errors."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import presets
from pymoe.backend.errors import ConfigError, NonFiniteError, ShapeError
from pymoe.models import GREEDY, LMConfig, Sampling, Seq2SeqConfig, generate, lm, seq2seq
from pymoe.nn import cross_attention, self_attention

from .cases import MIXTRAL, SIZES, B, Case, S, distance, frozen, parameters

U64 = 2.0**-53
CONFIGS = {
    "dense": LMConfig(**SIZES, n_layers=2),
    "sparse": LMConfig(**SIZES, n_layers=2, moe=MIXTRAL),
    "no positions": LMConfig(**{**SIZES, "rope_base": None}, n_layers=2),
    "untied": LMConfig(**SIZES, n_layers=2, tie=False, bias=True, norm="layer"),
}
by_config = pytest.mark.parametrize("name", CONFIGS)


@by_config
def test_one_token_at_a_time_is_all_at_once(name):
    cfg = CONFIGS[name]
    ids, p, _ = Case("", cfg).args()
    whole = lm.forward(ids, p, cfg)[0].logits
    for first in (1, 3, S):  # the prompt in one piece, the rest one by one
        logits, past = lm.step(ids[:, :first], p, cfg)
        rows = [logits]
        for i in range(first, S):
            logits, past = lm.step(ids[:, i : i + 1], p, cfg, past)
            rows.append(logits)
        assert distance(np.stack(rows, axis=1), whole[:, first - 1 :]) <= 16 * U64
    assert past[0].k.shape == (B, 2, S, 10)
    stale = lm.step(ids[:, 4:5], p, cfg, lm.step(ids[:, :3], p, cfg)[1])[0]  # the control: one token left out
    assert distance(stale, whole[:, 4]) > 1e-6


@by_config
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.8, top_k=7), Sampling(1.3, top_p=0.9)], ids=str)
def test_the_cache_changes_no_token(name, sampling):
    cfg = CONFIGS[name]
    ids, p, _ = Case("", cfg).args()
    keywords = {"sampling": sampling, "slide": 4}
    with_cache = generate.generate(ids, p, cfg, 25, rng=np.random.default_rng(1), **keywords)
    without = generate.generate(ids, p, cfg, 25, rng=np.random.default_rng(1), cached=False, **keywords)
    assert with_cache.shape == (B, 25)  # 7 + 25 tokens with a context of 13: the window slides
    assert np.array_equal(with_cache, without)
    assert sampling == GREEDY or len(np.unique(with_cache)) > 3


def test_greedy_is_the_largest_logit_of_a_forward_over_the_window():
    cfg = CONFIGS["sparse"]
    ids, p, _ = Case("", cfg).args()
    text = np.array(ids)
    new = generate.generate(ids, p, cfg, 20, slide=1)
    for _ in range(20):
        logits = lm.forward(text[:, -cfg.context :], p, cfg)[0].logits[:, -1]
        text = np.concatenate([text, np.argmax(logits, axis=-1)[:, None]], axis=1)
    assert np.array_equal(new, text[:, S:])


def test_a_long_prompt_is_cut_to_the_context():
    cfg = CONFIGS["dense"]
    p = parameters(cfg)
    ids = frozen(np.random.default_rng(0).integers(0, 11, (2, 30)))
    assert np.array_equal(generate.generate(ids, p, cfg, 3), generate.generate(ids[:, -13:], p, cfg, 3))
    with pytest.raises(ShapeError, match="a prompt of 30 and 3 new tokens do not fit into the context of 13"):
        generate.generate(ids, p, cfg, 3, slide=0)
    assert generate.generate(ids[:, :10], p, cfg, 4, slide=0).shape == (2, 4)  # the last token is never read again
    with pytest.raises(ShapeError, match="do not fit"):
        generate.generate(ids[:, :10], p, cfg, 5, slide=0)


def test_stop_ends_a_row_and_then_all():
    cfg = CONFIGS["dense"]
    ids, p, _ = Case("", cfg).args()
    free = generate.generate(ids, p, cfg, 12, sampling=Sampling(2.0), rng=np.random.default_rng(3))
    stop = int(free[0, 2])
    new = generate.generate(ids, p, cfg, 12, sampling=Sampling(2.0), rng=np.random.default_rng(3), stop=stop)
    ended = [np.argmax(row == stop) if stop in row else new.shape[1] for row in new]
    assert ended[0] <= 2 and new.shape[1] <= 12
    for row, n in zip(new, ended, strict=True):
        assert np.all(row[n:] == stop) and stop not in row[:n]
    assert generate.generate(ids, p, cfg, 0).shape == (B, 0)


def test_streaming_is_generating():
    cfg = CONFIGS["dense"]
    ids, p, _ = Case("", cfg).args()
    pieces = list(generate.stream(ids, p, cfg, 6, sampling=Sampling(), rng=np.random.default_rng(2)))
    whole = generate.generate(ids, p, cfg, 6, sampling=Sampling(), rng=np.random.default_rng(2))
    assert np.array_equal(np.stack(pieces, axis=1), whole)


def test_a_router_with_capacity_routes_a_lone_token_otherwise():
    """Documented: not causal.  The numbers differ, so nobody may rely on the cache being exact there."""
    moe = presets.expert_choice(5, 8, 6, 2)
    cfg = LMConfig(**SIZES, n_layers=1, moe=moe)
    ids, p, _ = Case("", cfg).args()
    logits, past = lm.step(ids[:, :-1], p, cfg)
    cached, _ = lm.step(ids[:, -1:], p, cfg, past)
    assert distance(cached, lm.forward(ids, p, cfg)[0].logits[:, -1]) > 1e-6


# --- sampling --------------------------------------------------------------------------------------------------


def by_hand(z, sampling):
    """One row, in plain Python."""
    v = len(z)
    order = sorted(range(v), key=lambda i: (-z[i], i))
    if sampling.temperature == 0:
        return [float(i == order[0]) for i in range(v)]
    weight = [np.exp((x - max(z)) / sampling.temperature) for x in z]
    keep = order[: sampling.top_k or v]
    total = sum(weight[i] for i in keep)
    p = {i: weight[i] / total for i in keep}
    if sampling.top_p is not None:
        nucleus, mass = [], 0.0
        for i in keep:
            nucleus.append(i)
            mass += p[i]
            if mass >= sampling.top_p:
                break
        p = {i: p[i] / sum(p[j] for j in nucleus) for i in nucleus}
    return [p.get(i, 0.0) for i in range(v)]


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(0.3), Sampling(1e-3), Sampling(5.0, 3), Sampling(1.0, 1), Sampling(1.0, 50),
     Sampling(1.0, None, 0.5), Sampling(1.0, None, 1e-9), Sampling(0.7, 4, 0.6), Sampling(1.0, None, 1.0), GREEDY],
    ids=str,
)  # fmt: skip
def test_the_distribution_is_the_one_described(sampling):
    z = np.random.default_rng(0).standard_normal((5, 11)) * 3
    z[1, 4] = z[1, 7] = 9.0  # a tie for the first place
    z[2, 3] = -np.inf
    z[3] = 0.0
    p = generate.distribution(frozen(z), sampling)
    assert p == pytest.approx(np.array([by_hand(list(row), sampling) for row in z]), abs=1e-14)
    assert p.sum(axis=-1) == pytest.approx(np.ones(5), abs=1e-14)
    other = generate.distribution(z, Sampling(0.9 if sampling.temperature else 1.0))
    assert distance(other, p) > 1e-3


def test_draws_follow_the_distribution_and_impossible_ids_never_come():
    z = np.log(np.array([[0.5, 0.3, 0.15, 0.05]]))
    rng = np.random.default_rng(0)
    ids = generate.choose(np.broadcast_to(z, (20_000, 4)), Sampling(top_k=3), rng)
    frequency = np.bincount(ids, minlength=4) / ids.size
    assert np.all(np.abs(frequency - np.array([0.5, 0.3, 0.15, 0.0]) / 0.95) < 0.02) and frequency[3] == 0
    assert np.max(np.abs(frequency - 0.25)) > 0.02  # the control: not uniform


def test_the_smallest_and_the_largest_uniform_number_pick_possible_ids():
    class Fixed:
        def __init__(self, u):
            self.u = u

        def random(self, shape):
            return np.full(shape, self.u)

    z = np.array([[-np.inf, 0.0, 1.0, -np.inf]])
    assert generate.choose(z, Sampling(), Fixed(0.0)) == [1]
    assert generate.choose(z, Sampling(), Fixed(np.nextafter(1.0, 0.0))) == [2]


def test_bad_sampling_is_refused():
    for bad, message in (({"temperature": -1.0}, "temperature"), ({"temperature": float("inf")}, "temperature"),
                         ({"top_k": 0}, "top_k"), ({"top_p": 0.0}, "top_p"), ({"top_p": 1.1}, "top_p")):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            Sampling(**bad)
    with pytest.raises(ConfigError, match="needs a generator"):
        generate.choose(np.zeros((1, 3)), Sampling())
    for bad_row in ([0.0, np.nan], [0.0, np.inf], [-np.inf, -np.inf]):
        with pytest.raises(NonFiniteError):
            generate.choose(np.array([bad_row]), GREEDY)
    cfg = CONFIGS["dense"]
    p = parameters(cfg)
    with pytest.raises(ShapeError, match="at least one token"):
        generate.stream(np.zeros((2, 0), int), p, cfg, 3)
    with pytest.raises(ConfigError, match="slide must lie in"):
        generate.stream(np.zeros((2, 1), int), p, cfg, 3, slide=14)
    with pytest.raises(ShapeError, match="1 tokens after 13 earlier ones, more than the context"):
        lm.step(np.zeros((2, 1), int), p, cfg, lm.step(np.zeros((2, 13), int), p, cfg)[1])


# --- encoder-decoder -------------------------------------------------------------------------------------------

TRANSLATOR = Case(
    "", Seq2SeqConfig(**SIZES, n_layers=1, decoder_layers=2, target_vocab=12, moe=MIXTRAL, moe_layers=(0,)), masked=True
)


def test_the_decoder_step_by_step_is_teacher_forcing():
    ids, p, cfg, decoder_ids = TRANSLATOR.args()
    mask = TRANSLATOR.keywords()["mask"]
    whole = seq2seq.forward(ids, p, cfg, decoder_ids, mask=mask)[0].logits
    state = seq2seq.encode(ids, p, cfg, mask=mask)
    rows = []
    for i in range(decoder_ids.shape[1]):
        logits, state = seq2seq.step(decoder_ids[:, i : i + 1], p, cfg, state)
        rows.append(logits)
    assert distance(np.stack(rows, axis=1), whole) <= 16 * U64
    unmasked = seq2seq.step(decoder_ids[:, :1], p, cfg, seq2seq.encode(ids, p, cfg))[0]
    assert distance(unmasked, whole[:, 0]) > 1e-6


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.2, top_k=6)], ids=str)
def test_translation_with_the_cache_is_translation_without(sampling):
    ids, p, cfg, _ = TRANSLATOR.args()
    keywords = {"start": 0, "mask": TRANSLATOR.keywords()["mask"], "sampling": sampling}
    one = generate.translate(ids, p, cfg, 13, rng=np.random.default_rng(1), **keywords)
    two = generate.translate(ids, p, cfg, 13, rng=np.random.default_rng(1), cached=False, **keywords)
    assert one.shape == (B, 13) and np.array_equal(one, two)
    stop = int(one[1, 1])
    cut = generate.translate(ids, p, cfg, 13, rng=np.random.default_rng(1), stop=stop, **keywords)
    assert np.all(cut[1, 1:] == stop)
    assert generate.translate(ids, p, cfg, 0, start=0).shape == (B, 0)
    with pytest.raises(ShapeError, match="14 new tokens do not fit"):
        generate.translate(ids, p, cfg, 14, start=0)


def test_padding_of_the_source_changes_no_translation():
    ids, p, cfg, _ = TRANSLATOR.args()
    alone = generate.translate(ids[:1, :4], p, cfg, 8, start=0)
    padded = np.concatenate([ids[:1, :4], np.full((1, 3), 5)], axis=1)
    mask = np.arange(7)[None, :] < 4
    assert np.array_equal(generate.translate(padded, p, cfg, 8, start=0, mask=mask), alone)


def test_given_keys_and_values_cannot_be_differentiated():
    cfg = cross_attention.CrossAttentionConfig(d_model=4, n_heads=2)
    p = cross_attention.init(np.random.default_rng(0), cfg)
    kv, _ = cross_attention.keys_values(np.ones((1, 3, 4), np.float32), p, cfg)
    y, cache = cross_attention.forward(np.ones((1, 2, 4), np.float32), p, cfg, kv=kv)
    with pytest.raises(ShapeError, match="not there to differentiate"):
        cross_attention.backward(y, cache)
    assert isinstance(kv, self_attention.KV)
