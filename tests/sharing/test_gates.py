"""Gates: what is averaged, what is not, and what is refused (values against loops: ``test_split_oracle``)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pymoe import moe
from pymoe.backend.errors import ConfigError, DataError, DtypeError, IndexRangeError, NonFiniteError, ShapeError
from pymoe.nn import feed_forward
from pymoe.sharing import gates
from pymoe.sharing.split import partition

from .layers import D, dense, frozen, settings, tokens


def test_padding_has_no_say_whatever_it_holds() -> None:
    states = tokens(0)
    mask = frozen(np.arange(len(states)) < 4)
    garbage = frozen(np.where(mask[:, None], states, np.nan))
    expected = states[:4].mean(0) / np.linalg.norm(states[:4].mean(0))
    assert np.abs(gates.hidden(garbage, mask) - expected).max() <= 4 * 2.0**-53
    longer = frozen(np.concatenate([states, np.zeros((9, D))]))
    longer_mask = frozen(np.concatenate([mask, np.zeros(9, bool)]))
    assert (gates.hidden(longer, longer_mask) == gates.hidden(states, mask)).all()
    assert gates.hidden(longer.astype(np.float32), longer_mask).dtype == np.float32


def test_a_row_is_of_length_one_at_any_scale_or_zero_where_nothing_is_left() -> None:
    for scale in (1e-200, 1.0, 1e200):
        assert abs(np.linalg.norm(gates.hidden(tokens(0) * scale)) - 1) <= 4 * 2.0**-53
    assert not gates.hidden(tokens(0), None, tokens(0)).any()
    assert (gates.hidden(tokens(0), None, tokens(1)) == -gates.hidden(tokens(1), None, tokens(0))).all()


def test_rows_fitted_to_data_choose_the_expert_that_says_most_more_often_than_the_centres_do() -> None:
    ff = settings(bias=False, activation="relu")
    p, x = dense(ff, 0), tokens(0, t=400)
    h = feed_forward.forward(x, p, ff)[1].c_down.x
    groups = partition.clustered(p["gate_up_proj"][: ff.d_ff], 4, np.random.default_rng(0))
    held = np.stack([np.abs(h[:, g]).sum(1) for g in groups], axis=1)
    best = held.argmax(1)

    def agreement(router: Any) -> float:
        layer, cfg = partition.layer(p, ff, groups, 1, router=router)
        return float((moe.forward(x, layer, cfg)[0].routing.idx[:, 0] == best).mean())

    fitted = agreement(gates.fitted(x[:200], h[:200], groups) * 0.02)
    chance = np.bincount(best).max() / len(best)
    assert fitted > 0.5 > chance - 0.1 and fitted > agreement(np.random.default_rng(0).standard_normal((4, D)))


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda: gates.hidden(np.ones((0, 3))), DataError, "states has no real token"),
        (lambda: gates.hidden(np.ones((2, 3)), np.zeros(2, bool)), DataError, "states has no real token"),
        (lambda: gates.hidden(np.ones((2, 3)), None, np.ones((0, 3))), DataError, "negative has no real token"),
        (lambda: gates.hidden(np.ones((2, 3)), np.ones(3, bool)), ShapeError, "mask of states must have shape (2)"),
        (lambda: gates.hidden(np.ones((2, 3)), np.ones(2)), DtypeError, "must be bool"),
        (lambda: gates.hidden(np.ones((2, 3), int)), DtypeError, "floating"),
        (lambda: gates.hidden(np.full((2, 3), np.nan)), NonFiniteError, "states is nan"),
        (lambda: gates.cheap_embed(np.ones((4, 3)), np.array([4])), IndexRangeError, "ids must lie in [0, 4)"),
        (lambda: gates.cheap_embed(np.ones((4, 3)), np.zeros(0, int)), DataError, "no real token"),
        (lambda: gates.random(np.random.default_rng(0), 0, 3), ConfigError, "n_experts"),
        (lambda: gates.uniform_random(np.random.default_rng(0), 2, 0), ConfigError, "d_model"),
        (lambda: gates.fitted(np.ones((1, 3)), np.ones((1, 4)), np.array([[0, 1]])), DataError, "at least 2"),
        (lambda: gates.fitted(np.ones((5, 3)), np.ones((4, 4)), np.array([[0, 1]])), ShapeError, "h must have"),
        (lambda: gates.fitted(np.ones((5, 3)), np.ones((5, 4)), np.array([[0]]), ridge=0), ConfigError, "ridge"),
    ],
)
def test_what_is_refused(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert says in str(caught.value).replace("(2,)", "(2)")


def test_equal_tokens_teach_nothing() -> None:
    assert not gates.fitted(np.ones((5, 3)), np.ones((5, 4)), np.array([[0, 1], [2, 3]])).any()
