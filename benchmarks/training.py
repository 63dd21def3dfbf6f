"""Time of one training step against nanoGPT's CPU budget.  ``python benchmarks/training.py``

pymoe: the ``shakespeare`` preset, 12 windows of 64 characters, forward, backward, clipping and AdamW.  Peer: a dense
GPT-2-style model of nanoGPT's CPU sizes (4 layers, 4 heads, width 128, window 64, learned positions, LayerNorm, GELU,
0.8 M parameters) in torch with its fused attention and AdamW, on the same tokens.  Medians of one interleaved run.
"""

from __future__ import annotations

import os
import sys

from interleave import Contender, medians, serve

ROWS, WINDOW, VOCAB = 12, 64, 65


def pymoe() -> None:
    import numpy as np

    from pymoe.train.presets import PRESETS
    from pymoe.train.step import advance, start

    preset = PRESETS["shakespeare"]
    cfg = preset.model(VOCAB, WINDOW)
    ids = np.random.default_rng(0).integers(0, VOCAB, 100_000)
    state = start(preset.settings, cfg)
    serve({"step": lambda: advance(preset.settings, cfg, state, ids)})


def torch_gpt() -> None:
    import torch
    from torch import nn
    from torch.nn import functional

    width, heads = 128, 4

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
            self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
            self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, s, _ = x.shape
            q, k, v = (t.reshape(b, s, heads, -1).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
            a = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(a.transpose(1, 2).reshape(b, s, width))
            return x + self.down(functional.gelu(self.up(self.norm2(x))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(VOCAB, width), nn.Embedding(WINDOW, width)
            self.blocks, self.norm = nn.ModuleList(Block() for _ in range(4)), nn.LayerNorm(width, bias=False)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.tokens(ids) + self.places.weight
            for block in self.blocks:
                x = block(x)
            return self.norm(x) @ self.tokens.weight.T

    torch.manual_seed(0)
    model = Model()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.randint(0, VOCAB, (ROWS, WINDOW + 1))

    def step() -> None:
        loss = functional.cross_entropy(model(ids[:, :-1]).reshape(-1, VOCAB), ids[:, 1:].reshape(-1))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    serve({"step": step})


def main() -> None:
    from pymoe.cli import allocator, blas_core

    core = os.environ.get("OPENBLAS_CORETYPE") or blas_core.wanted()
    print(f"{os.cpu_count()} cores; OPENBLAS_CORETYPE for pymoe: {core or 'as NumPy picks'}")
    own = {"OPENBLAS_CORETYPE": core} if core else {}
    contenders = [
        Contender("pymoe", "training.py", ["pymoe"], allocator.ENVIRONMENT | own),
        Contender("torch GPT", "training.py", ["torch"], allocator.ENVIRONMENT),
    ]
    times = medians(contenders, ["step"], 60, patience=1e9)
    for c in contenders:
        t = times[c.name, "step"]
        print(f"{c.name:10s} {t * 1e3:6.1f} ms a step, {ROWS * WINDOW / t:8,.0f} tokens/s, {2000 * t:4.0f} s for 2,000")
        c.close()
    print(f"ratio {times['pymoe', 'step'] / times['torch GPT', 'step']:.2f}")


if __name__ == "__main__":
    {"pymoe": pymoe, "torch": torch_gpt}.get(sys.argv[1] if len(sys.argv) > 1 else "", main)()
