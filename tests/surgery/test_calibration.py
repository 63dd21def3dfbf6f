"""What calibration sees, against a forward written out layer by layer."""

from __future__ import annotations

import numpy as np
import pytest

from pymoe import moe
from pymoe.backend import tree
from pymoe.backend.errors import DataError
from pymoe.models import lm
from pymoe.surgery import calibration, targets
from pymoe.surgery.calibration import Calibration
from pymoe.train import objective
from tests.surgery import models


def routed_rows(cfg, p, text, layer):
    """For every expert the inputs of the tokens it got, token by token, from the layer's own routing."""
    rows = {e: [] for e in range(models.E)}
    for x in calibration_inputs(cfg, p, text, layer):
        out, _ = moe.forward(x, p["layers"][str(layer)]["mlp"], cfg.moe)
        for t in range(len(x)):
            for e in out.routing.idx[t]:
                rows[int(e)].append(x[t])
    return {e: np.array(r).reshape(-1, models.D) for e, r in rows.items()}


def calibration_inputs(cfg, p, text, layer):
    for ids, _ in text.batches():
        _, cache = lm.forward(ids, p, cfg)
        yield cache.c_stack.c_blocks[layer].c_feed_forward.experts.x


def test_the_number_of_batches_is_what_a_bar_counts_to():
    for n in (10, 37, 38, 100, 117, 118, 119, 200, 1000):
        text = models.text(n)
        assert len(text) == len(list(text.batches())), n


def test_a_text_without_one_window_is_refused():
    with pytest.raises(DataError, match="9 tokens, and one window needs 10"):
        list(Calibration(np.zeros(9, int), models.WINDOW).batches())


def test_moments_are_those_of_the_tokens_an_expert_got():
    cfg, p = models.sparse()
    text, name = models.text(), "layers.1.mlp.experts.gate_up_proj"
    seen = calibration.moments(p, cfg, text, [name], grams=True)[name]
    for e, rows in routed_rows(cfg, p, text, 1).items():
        want = rows.T @ rows
        assert seen.count[e] == len(rows)
        np.testing.assert_allclose(seen.gram[e], want, rtol=0, atol=1e-13 * np.abs(want).max())
        np.testing.assert_allclose(seen.sumsq[e], np.diag(want), rtol=1e-13)
        assert not np.allclose(seen.sumsq[e] * 1.001, np.diag(want), rtol=1e-13)


def test_moments_of_plain_matrices_count_every_token():
    cfg, p = models.sparse(shared=7)
    text = models.text()
    names = targets.names(p, "all")
    seen = calibration.moments(p, cfg, text, names, grams=True)
    assert list(seen) == names
    tokens = sum(x.size for x, _ in text.batches())
    for name in names:
        if ".experts." not in name:
            assert seen[name].count == tokens
            np.testing.assert_allclose(np.diag(seen[name].gram), seen[name].sumsq, rtol=1e-12)
            assert seen[name].sumsq.shape == (tree.flatten(p)[name].shape[1],)


def test_gradients_are_the_mean_over_the_batches_and_the_mean_of_squares():
    cfg, p = models.sparse()
    text, name = models.text(), "layers.0.mlp.experts.down_proj"
    each = []
    for x, y in text.batches():
        _, cache = objective.forward(x, p, cfg, y, {})
        each.append(objective.backward(1.0, cache)[1]["layers"]["0"]["mlp"]["experts"]["down_proj"])
    found = calibration.gradients(p, cfg, text, [name])
    np.testing.assert_allclose(found.mean[name], np.mean(each, 0), rtol=0, atol=1e-16)
    np.testing.assert_allclose(found.square[name], np.mean(np.square(each), 0), rtol=0, atol=1e-16)
    assert np.abs(found.mean[name] * 1.001 - np.mean(each, 0)).max() > 1e-10


def test_the_input_of_a_layer_is_that_of_every_token():
    cfg, p = models.sparse()
    text = models.text()
    want = np.concatenate(list(calibration_inputs(cfg, p, text, 1)))
    np.testing.assert_array_equal(calibration.layer_inputs(p, cfg, text, 1), want)
    cfg, p = models.dense()
    assert calibration.layer_inputs(p, cfg, text, 0).shape == want.shape
