"""A router by itself as a subject of the gradient check: its settings by pairs, its inputs, and every output it has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from pymoe.moe import Capacity, Draws, Given, RouterConfig, draw, router, router_parameters
from pymoe.moe.config import MoEConfig

from .frames import frozen

T, D, E, K, B, V = 10, 3, 6, 2, 2, 5  # B sequences of 5 tokens, V token ids

FIRST = ("balance", "z", "importance", "load")
OTHER = ("balance_second", "entropy", "l1", "balance")
OPTIONS: dict[str, list[Any]] = {
    "score": ["softmax", "sigmoid", "sqrtsoftplus", "relu", "identity"],
    "score_at": ["all", "chosen"],
    "select": [
        {"select": "topk"},
        {"select": "topk", "select_on": "logits"},
        {"select": "group_limited", "n_group": 2, "topk_group": 1, "group_score": "sum_topm", "group_best": 3},
        {"select": "expert_choice"},
        {"select": "top_p", "top_p": 0.6, "k": 4},
        {"select": "table", "table_size": V},
        {"select": "given"},
    ],
    "norm": [
        {"norm": "none"},
        {"norm": "l1", "eps": 0.125},
        {"norm": "clamp", "eps": 0.5},
        {"norm": "lp", "norm_p": 3.0},
        {"norm": "lp", "norm_p": 1.0},
        {"norm": "joint", "n_shared_logits": 2},
    ],
    "scale": [{}, {"scale": -2.5}, {"scale": 3.0, "scale_at": "output"}],
    "trained": [{}, {"global_scale": True}, {"expert_scale": True}, {"global_scale": True, "expert_scale": True}],
    "bias": [{}, {"bias": True}, {"selection_bias": True}],
    "input": [{}, {"input_norm": "rms", "input_norm_eps": 0.1, "input_multiplier": 0.7}],
    "logit": [{}, {"logit_multiplier": 1.5}, {"soft_cap": 2.0}],
    "null": [
        {},
        {"null_experts": ("zero", "identity"), "null_balance": "mean"},
        {"null_experts": ("zero", "copy"), "null_norm": "true"},
        {"null_experts": ("zero", "constant"), "null_norm": "nonzero"},
    ],
    "noise": [{}, {"noise": "learned"}, {"noise": "gaussian", "noise_std": 4.0}],
    "jitter": [{}, {"jitter": 0.25}, {"jitter": 0.25, "jitter_form": "dropout"}],
    "sample": ["none", "all", "second"],
    "second": [
        {},
        {"second_threshold": 0.4, "second_policy": "threshold"},
        {"second_threshold": 0.4, "second_gate": "score"},
        {"second_policy": "none"},
    ],
    "skip": [None, 0.7],
    "capacity": [
        None,
        Capacity(0.7, order="random", renorm="after"),
        Capacity(0.7, order="probability"),
        Capacity(0.7, order="score_token", priority="weight", rule="deepspeed"),
        Capacity(1.0, order="interleaved", per="sequence", rule="megatron", renorm="after"),
    ],
    "losses": [FIRST, OTHER, ()],
    "balance": [
        {},
        {"balance_of": "softmax", "balance_factor": "mixtral"},
        {"balance_over": "sequence", "balance_choices": "first"},
        {"balance_normalise": "total", "balance_factor": "fairscale"},
        {"balance_over": "sequence", "balance_normalise": "total"},
    ],
    "importance_of": ["weights", "scores"],
    "mask": [None, True],
    "train": [True, False],
}


def config(**settings: Any) -> RouterConfig:
    return RouterConfig(**{"n_experts": E, "k": K, **settings})


class Frame:
    """One router with seeded, read-only inputs; ``subject`` has every output, ``args`` what it takes."""

    def __init__(self, cfg: RouterConfig, *, mask: Any = None, train: bool = True, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, 5])
        self.cfg = cfg
        self.p = {}
        for name, shape in router_parameters.shapes(cfg, D).items():
            value = router_parameters.first(rng, name, shape, cfg, np.float64)
            self.p[name] = frozen(value if name == "table" else value + rng.standard_normal(shape) / 2)
        self.mask = None
        if mask is not None:
            self.mask = frozen(np.array([1, 0, 1, 1, 1, 1, 1, 0, 0, 1], bool)[:T] if mask is True else np.asarray(mask))
        x = rng.standard_normal((T, D)) * 1.5
        self.x = frozen(x if self.mask is None else x * self.mask[:, None])  # the layer zeroes padding
        n = cfg.n_shared_logits
        shared = {"shared": "joint", "n_shared": n, "d_shared": n} if cfg.norm == "joint" else {}
        self.draws = draw(rng, MoEConfig(D, 1, cfg, **shared), T) if train else Draws()
        given = {"counts": frozen(rng.integers(0, 9, cfg.n_ids)), "sequences": B}
        if cfg.select == "table":
            given["token_ids"] = frozen(rng.integers(0, V, T))
        if cfg.select == "given":
            given["idx"] = frozen(rng.integers(0, cfg.n_ids, (T, cfg.k)))  # twice the same among them
        self.given = Given(**given)

    def forward(self, **other: Any) -> Any:
        f = {"x": self.x, "p": self.p, "cfg": self.cfg, "mask": self.mask, "draws": self.draws, "given": self.given}
        return router.forward(*{**f, **other}.values())

    @property
    def subject(self) -> Any:
        """y: the weights, the logits and the shared weights in a row; losses by name."""
        cfg = self.cfg

        def forward(x: np.ndarray, p: dict) -> Any:
            (r, losses), cache = router.forward(x, p, cfg, self.mask, self.draws, self.given)
            parts = [a for a in (r.weight, r.logits, r.shared_weight) if a is not None]
            return SimpleNamespace(y=np.concatenate(parts, axis=1), losses=losses), cache

        def backward(dy: np.ndarray, cache: Any, dlosses: Any = None) -> Any:
            k = dy.shape[1] - cfg.n_logits
            dshared = dy[:, k + cfg.n_ids :] if cfg.n_shared_logits else None
            return router.backward(dy[:, :k], dlosses or {}, cache, dlogits=dy[:, k : k + cfg.n_ids], dshared=dshared)

        return SimpleNamespace(__name__="router", forward=forward, backward=backward)
