"""Where transformers 5.23.0 is wrong, pymoe is not, and the difference is that defect and nothing else.

L1 to L10 are the numbers of the list that these tests come from.  Each shows the defect in the installed code, and that
transformers with the defect taken out, or pymoe with it put in, agree.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from pymoe import hf, moe, ops  # noqa: E402
from pymoe.moe import capacity  # noqa: E402
from tests.hf.blocks import compare, reference  # noqa: E402
from tests.hf.blocks.compare import error  # noqa: E402
from tests.hf.blocks.precise import Precise  # noqa: E402
from tests.hf.blocks.rows import ROWS  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
EXACT = compare.TOLERANCE


def theirs(name: str, changes: dict[str, Any] | None = None, **row: Any) -> tuple[Any, Any, Any]:
    """(config, block, module) of a row, as transformers has it where ``build`` says so."""
    found = dataclasses.replace(ROWS[name], **row)
    with reference.double():
        cfg, block = reference.made(found, changes or {}, f"defect/{name}")
    return cfg, block, reference.modelling(found)


def output(block: Any, x: np.ndarray, **others: Any) -> np.ndarray:
    with reference.double(), torch.no_grad(), Precise():
        y = block(torch.from_numpy(x.copy()), **others)
    y = y[0] if isinstance(y, tuple) else y
    return y.reshape(x.shape).numpy()


def mine(cfg: Any, block: Any, x: np.ndarray, **how: Any) -> Any:
    settings = hf.config(cfg, **how)
    return moe.forward(x, hf.load(reference.state_of(block), settings), settings)[0]


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape)


def test_l1_nllb_takes_a_mask_for_ids_so_that_only_two_experts_run() -> None:
    def build(module: Any, cfg: Any) -> Any:
        return module.NllbMoeSparseMLP(cfg, 5)

    cfg, block, _ = theirs("nllb_moe", {"moe_eval_capacity_token_fraction": 1.0}, build=build)
    x = drawn(2, 7, 8)
    ran: list[str] = []
    for name, expert in block.experts.items():
        if name.startswith("expert_"):
            expert.register_forward_hook(lambda m, i, o, name=name: ran.append(name))
    wrong, out = output(block, x), mine(cfg, block, x)
    assert sorted(ran) == ["expert_0", "expert_1"] and (out.routing.load > 0).sum() > 2
    assert error(wrong, out.y) > 0.1
    p = hf.load(reference.state_of(block), hf.config(cfg))["experts"]
    flat = x.reshape(-1, 8)

    def expert(e: int) -> np.ndarray:
        h = np.maximum(flat @ p["up_proj"][e].T + p["up_proj_bias"][e], 0)
        return h @ p["down_proj"][e].T + p["down_proj_bias"][e]

    first, second = out.routing.weight.T[:, :, None]  # the mask is 1 at the first choice, 0 everywhere else
    scale = 1 - cfg.moe_token_dropout
    assert error(wrong.reshape(-1, 8), scale * (first * expert(1) + second * expert(0))) < EXACT


def test_l2_doge_routes_a_token_by_the_scores_of_others() -> None:
    cfg, block, _ = theirs("doge", build=lambda module, cfg: module.DogeCDMoE(cfg))
    x = drawn(1, 8, 8)
    edited = x.copy()
    edited[0, 7] += 1
    settings = hf.config(cfg)
    p = hf.load(reference.state_of(block), settings)
    module = hf.blocks.module_of(settings)
    for run, moves in ((lambda a: output(block, a), True), (lambda a: module.forward(a, p, settings)[0].y, False)):
        earlier = run(edited)[0, :7] - run(x)[0, :7]
        assert bool(np.any(earlier)) == moves
    # that the mended layout gives pymoe's numbers, outputs and gradients, is the row "doge" of the matrix


def test_l3_the_pooled_loss_calls_four_collapsed_layers_balanced() -> None:
    cfg, block, module = theirs("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 1})
    layers = [50.0 * np.eye(4)[np.full(12, e)] for e in range(4)]  # layer e sends everything to expert e
    with reference.double(), Precise():
        pooled = float(module.load_balancing_loss_func(tuple(torch.from_numpy(z) for z in layers), 4, 1))
    settings = hf.config(cfg)
    own = []
    for z in layers:
        weights = hf.load(reference.state_of(block), settings)
        weights = weights | {"router": {"weight": np.eye(4, 8)}}
        x = np.concatenate([z, np.zeros((12, 4))], axis=1)
        own.append(float(moe.forward(x, weights, settings)[0].losses["balance"]))
    assert abs(pooled - 1) < 1e-12 and np.allclose(own, 4, atol=1e-12)


@pytest.mark.parametrize("name", ["mixtral", "minimax", "minimax_m2", "dbrx"])
def test_l4_the_jitter_of_the_router_changes_the_callers_tensor_and_reaches_the_experts(name: str) -> None:
    own = {"moe_jitter_eps": 0.3} if name == "dbrx" else {"router_jitter_noise": 0.3}
    cfg, block, _ = theirs(name, own)
    x = drawn(2, 7, 8)
    given = torch.from_numpy(x.copy())
    block.train()
    with reference.double(), torch.no_grad(), Precise():
        y = block(given).numpy().reshape(x.shape)
    noisy = given.numpy()
    jitter = noisy / x
    assert np.any(noisy != x) and np.abs(jitter - 1).max() < 0.3 + 1e-12
    raw = ROWS[name].raw(cfg)
    assert error(y, mine(raw, block, noisy).y) < EXACT  # theirs: the experts see the noise
    settings = hf.config(raw, jitter=0.3)
    p = hf.load(reference.state_of(block), settings)
    draws = moe.Draws(jitter=jitter.reshape(-1, 8))
    before = x.copy()
    out = moe.forward(x, p, settings, draws=draws)[0]
    assert np.array_equal(x, before)  # here: the router alone, on a copy
    assert np.array_equal(out.routing.idx, mine(raw, block, noisy).routing.idx) and error(y, out.y) > 1e-3


def test_l4_phimoe_jitters_twice() -> None:
    cfg, block, _ = theirs("phimoe", {"input_jitter_noise": 0.01})
    x = np.ones((1, 4000, 8))
    given = torch.from_numpy(x.copy())
    block.train()
    with reference.double(), torch.no_grad(), Precise():
        block(given)
    nominal = 0.01 / np.sqrt(3)  # the standard deviation of U(1 - 0.01, 1 + 0.01)
    assert abs(given.numpy().std() / nominal - np.sqrt(2)) < 0.05


def test_l5_axk2_masks_with_zero_so_that_a_negative_bias_picks_forbidden_groups() -> None:
    cfg, block, _ = theirs("axk2")
    with torch.no_grad():
        block.gate.e_score_correction_bias.sub_(2.0)
    x = drawn(1, 5, 8)
    seen: list[Any] = []
    block.gate.register_forward_hook(lambda m, i, o: seen.append(o))
    wrong, out = output(block, x), mine(cfg, block, x)
    idx = np.sort(seen[0][2].numpy(), axis=1)
    s = ops.sigmoid.forward(np.asarray(out.routing.logits))[0]
    c = s + reference.state_of(block)["gate.e_score_correction_bias"]
    groups = np.sort(c.reshape(5, 3, 3), axis=2)[:, :, -2:].sum(axis=2)
    allowed = np.repeat(np.argsort(np.argsort(-groups, axis=1), axis=1) < 2, 3, axis=1)
    for fill, want in ((0.0, idx), (-np.inf, np.sort(np.asarray(out.routing.idx), axis=1))):
        best = np.argsort(-np.where(allowed, c, fill), axis=1, kind="stable")[:, :4]
        assert np.array_equal(np.sort(best, axis=1), want), fill
    assert not np.take_along_axis(allowed, idx, axis=1).all(axis=1).any()  # every token got a forbidden expert
    assert np.take_along_axis(allowed, np.asarray(out.routing.idx), axis=1).all() and error(wrong, out.y) > 1e-3


def test_l6_longcat_builds_a_bias_of_the_router_and_forgets_it() -> None:
    cfg, block, _ = theirs("longcat_flash", {"router_bias": True})
    x = drawn(2, 7, 8)
    y, state = output(block, x), reference.state_of(block)
    settings = hf.config(cfg)
    assert settings.router.bias and np.any(state["router.classifier.bias"])
    for bias, agrees in ((state["router.classifier.bias"], False), (np.zeros(8), True)):
        p = hf.load(state | {"router.classifier.bias": bias}, settings)
        assert (error(moe.forward(x, p, settings)[0].y, y) < EXACT) == agrees


def test_l7_the_gradient_of_sqrt_softplus_is_nan_far_to_the_left() -> None:
    from transformers.activations import ACT2FN

    z = torch.tensor([-110.0, 1.0], requires_grad=True)
    ACT2FN["sqrtsoftplus"](z)[1].backward()  # the other one is not even used
    assert torch.isnan(z.grad[0]) and not torch.isnan(z.grad[1])
    s, cache = ops.sqrt_softplus.forward(z.detach().numpy())
    dz, _ = ops.sqrt_softplus.backward(np.array([0.0, 1.0], np.float32), cache)
    assert dz[0] == 0 and abs(dz[1] - z.grad[1].numpy()) < 1e-7


def test_l8_nllb_trains_with_the_capacity_of_its_last_evaluation_and_writes_into_the_logits() -> None:
    changes = {"moe_eval_capacity_token_fraction": 0.25, "expert_capacity": 64, "second_expert_policy": "sampling"}
    _, block, _ = theirs("nllb_moe", changes)
    router = block.router.inner
    for train, tokens, places in ((True, 60, 64), (False, 12, 3), (True, 60, 3)):  # 3: of the evaluation in between
        x = torch.from_numpy(drawn(tokens, 8))
        with reference.double(), torch.no_grad(), Precise():
            logits = router.train(train)(x)[2]
            assert not torch.equal(logits, router.classifier(x))
        assert router.expert_capacity == places
    own = hf.config(theirs("nllb_moe", {"moe_eval_capacity_token_fraction": 0.25})[0]).router.capacity
    assert own is not None and [capacity.places(own, tokens, 6, 2) for tokens in (12, 60)] == [3, 15]


def test_l9_inkling_without_shared_experts_fails() -> None:
    cfg, block, _ = theirs("inkling", {"n_shared_experts": 0})
    x = drawn(2, 7, 8)
    with pytest.raises(RuntimeError):
        output(block, x)
    state = {n: a for n, a in reference.state_of(block).items() if not n.startswith("shared_experts")}
    settings = hf.config(cfg)
    out = moe.forward(x, hf.load(state, settings), settings)[0]
    weight = np.asarray(out.routing.weight).sum(axis=1)
    assert np.allclose(weight, cfg.route_scale * state["gate.global_scale"], atol=1e-12)


@pytest.mark.parametrize("name", ["lfm2_moe"])
def test_l10_a_score_in_the_dtype_of_the_model_has_ties_at_the_cut(name: str) -> None:
    _, block, _ = theirs(name, {"num_experts": 256, "num_experts_per_tok": 8})
    router = block.gate.to(torch.bfloat16)
    x = torch.from_numpy(3 * drawn(400, 8)).to(torch.bfloat16)
    with torch.no_grad():
        logits = router(x, block.expert_bias)[0]
    for scores, tied in ((logits.sigmoid(), True), (logits.double().sigmoid(), False)):
        ranked = scores.double().sort(dim=1, descending=True).values
        share = float((ranked[:, 7] == ranked[:, 8]).double().mean())
        assert (share > 0.3) == tied, share


def test_deepseek_v2_ignores_norm_topk_prob() -> None:
    """The authors' code renormalises the weights instead of scaling them."""
    cfg, block, _ = theirs("deepseek_v2", {"norm_topk_prob": True})
    x = drawn(2, 7, 8)
    y = output(block, x)
    settings = hf.config(cfg)
    assert settings.router.norm == "l1" and settings.router.scale == 1
    assert error(mine(cfg, block, x).y, y) > 1e-3
    assert error(mine(cfg, block, x, norm="none", eps=0.0, scale=cfg.routed_scaling_factor).y, y) < EXACT


def test_doge_with_norm_topk_prob_cannot_be_trained() -> None:
    _, block, _ = theirs("doge", {"norm_topk_prob": True}, build=lambda module, cfg: module.DogeCDMoE(cfg))
    x = torch.from_numpy(drawn(1, 8, 8)).requires_grad_()
    with reference.double(), Precise(), pytest.raises(RuntimeError, match="modified by an inplace operation"):
        block(x)[0].sum().backward()


def test_phimoe_takes_two_experts_whatever_the_config_says() -> None:
    cfg, block, _ = theirs("phimoe", {"num_experts_per_tok": 3})
    with reference.double(), torch.no_grad(), Precise():
        idx = block.router(torch.from_numpy(drawn(5, 8)))[2]
    assert idx.shape == (5, 2) and hf.config(cfg).k == 2
