"""What the blocks do in training only: PhiMoE's samples with the draws handed over, the jitter; Switch's z-loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from pymoe import hf, moe  # noqa: E402
from pymoe.moe.rules import sparse_mixer  # noqa: E402
from tests.hf.blocks import reference  # noqa: E402
from tests.hf.blocks.compare import TOLERANCE, by_expert, error  # noqa: E402
from tests.hf.blocks.precise import Precise  # noqa: E402
from tests.hf.blocks.rows import ROWS  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape)


def test_phimoe_samples_and_its_estimator_are_those_of_sparse_mixer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gumbel noise is -log of an exponential; the code draws exponentials and uniforms slot by slot."""
    with reference.double():
        cfg, block = reference.made(ROWS["phimoe"], {"router_jitter_noise": 0.4}, "training")
    rng = np.random.default_rng(8)
    exponential = [rng.exponential(size=(40, 6)) for _ in range(2)]
    uniform = [rng.random((40, 1)) for _ in range(2)]
    draws = sparse_mixer.Draws(-np.log(np.stack(exponential, axis=1)), np.concatenate(uniform, axis=1))
    lists: dict[str, list[Any]] = {"exponential": [*exponential], "uniform": [*uniform]}

    def given(name: str) -> Any:
        return lambda *args, **kwargs: torch.from_numpy(lists[name].pop(0))

    monkeypatch.setattr(torch.Tensor, "exponential_", given("exponential"))
    monkeypatch.setattr(torch, "rand_like", given("uniform"))
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *args: self)  # of the second slot, drawn twice over
    x, dy = drawn(2, 20, 8), np.random.default_rng(9).standard_normal((2, 20, 8))
    tensor = torch.from_numpy(x).requires_grad_()
    seen: list[Any] = []
    block.train()
    block.router.register_forward_hook(lambda m, i, o: seen.append(o))
    with reference.double(), Precise():
        y = block(tensor.clone())
        (y * torch.from_numpy(dy)).sum().backward()
    assert not lists["exponential"] and not lists["uniform"]
    settings = hf.config(cfg)
    p = hf.load(reference.state_of(block), settings)
    out, cache = sparse_mixer.forward(x, p, settings, draws=draws)
    dx, dp = sparse_mixer.backward(dy, cache)
    idx, weight = by_expert(*(a.detach().numpy() for a in (seen[0][2], seen[0][1])))
    own, own_weight = by_expert(out.routing.idx, out.routing.weight)
    assert np.array_equal(own, idx) and error(own_weight, weight) < TOLERANCE
    best = np.argmax(x.reshape(-1, 8) @ p["router"]["weight"].T, axis=1)
    sampled = np.asarray(out.routing.idx)[:, 0] != best
    assert sampled.any() and not sampled.all()  # so that both kinds of weight are there
    assert error(out.y, y.detach().numpy()) < TOLERANCE and error(dx, tensor.grad.numpy()) < TOLERANCE
    grads = hf.dump(dp, settings, gradients=True)
    for n, w in block.named_parameters():
        assert error(grads[n], w.grad.numpy()) < TOLERANCE, n


def test_switch_has_the_z_loss_of_its_paper() -> None:
    with reference.double():
        cfg, block = reference.made(ROWS["switch_transformers"], {}, "z")
        x = drawn(2, 7, 8)
        tensor = torch.from_numpy(x).requires_grad_()
        with Precise():
            loss = reference.modelling(ROWS["switch_transformers"]).router_z_loss_func(block.router(tensor)[2])
            loss.backward()
    settings = hf.config(cfg)
    out, cache = moe.forward(x, hf.load(reference.state_of(block), settings), settings)
    dx, _ = moe.backward(np.zeros_like(x), cache, {"z": 1.0})
    assert error(out.losses["z"], float(loss.detach())) < TOLERANCE and error(dx, tensor.grad.numpy()) < TOLERANCE


@pytest.mark.parametrize("name", ["mixtral", "switch_transformers"])
def test_the_jitter_of_the_router_is_that_of_transformers_with_the_experts_input_put_back(name: str) -> None:
    """The router's own weights with a jitter handed over: transformers' router alone, which sees the same x."""
    changes: dict[str, Any] = {"router_jitter_noise": 0.3, "expert_capacity": 64}
    own = {n: v for n, v in changes.items() if name != "mixtral" or n != "expert_capacity"}
    with reference.double():
        cfg, block = reference.made(ROWS[name], own, "jitter")
        x = drawn(2, 7, 8)
        jitter = 1 + 0.3 * np.random.default_rng(5).uniform(-1, 1, x.shape)
        router = block.router if name == "switch_transformers" else block.gate
        with torch.no_grad(), Precise():
            found = router(torch.from_numpy(x * jitter))
    settings = hf.config(cfg, jitter=0.3)
    p = hf.load(reference.state_of(block), settings)
    out, _ = moe.forward(x, p, settings, draws=moe.Draws(jitter=jitter.reshape(-1, 8)))
    logits = found[2 if name == "switch_transformers" else 0].numpy().reshape(14, -1)
    assert error(out.routing.logits, logits) < TOLERANCE
