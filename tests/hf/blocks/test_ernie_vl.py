"""Ernie 4.5 VL sends text and vision tokens to experts of their own, and all to one shared network."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from pymoe import hf, moe  # noqa: E402
from tests.hf.blocks import reference  # noqa: E402
from tests.hf.blocks.compare import TOLERANCE, error  # noqa: E402
from tests.hf.blocks.precise import Precise  # noqa: E402
from tests.hf.blocks.rows import ROWS  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_sequence_of_both_kinds_is_the_two_blocks_side_by_side() -> None:
    with reference.double():
        cfg, block = reference.made(ROWS["ernie4_5_vl_moe"], {}, "both kinds")
        x, dy = (np.random.default_rng(i).standard_normal((2, 7, 8)) for i in (4, 5))
        vision = np.random.default_rng(6).random((2, 7)) < 0.4
        given = torch.from_numpy(x).requires_grad_()
        with Precise() as mode:
            y = block(given, torch.from_numpy(vision.astype(np.int32)))[0]
            (y * torch.from_numpy(dy)).sum().backward()
    assert mode.margin > reference.LEAST_MARGIN and vision.any() and not vision.all()
    state = reference.state_of(block)
    out, dx = np.empty_like(x), np.empty_like(x)
    grads: dict[str, np.ndarray] = {}
    for part, mine in ((None, ~vision), ("vision", vision)):
        settings = hf.config(cfg, part=part)
        found, cache = moe.forward(x[mine], hf.load(state, settings), settings)
        dx[mine], dp = moe.backward(dy[mine], cache)
        out[mine] = found.y
        for n, a in hf.dump(dp, settings, gradients=True).items():
            grads[n] = grads.get(n, 0) + a
    assert error(out, y.detach().numpy()) < TOLERANCE and error(dx, given.grad.numpy()) < TOLERANCE
    for n, w in block.named_parameters():
        if w.grad is not None:
            assert error(grads[n], w.grad.numpy()) < TOLERANCE, n
