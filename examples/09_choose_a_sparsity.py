"""How sparse can it be?  Train a small language model, make it smaller in several ways, read the answer off a table.

The same as ``pymoe compress RUN --report``, from Python: every way is measured alike, on text that the model has not
seen, before and after some steps of fine-tuning in which what was pruned stays zero.
"""

from pydoc_data.topics import topics

import numpy as np

from pymoe import presets
from pymoe.backend import tree
from pymoe.models import lm
from pymoe.surgery import compress, report
from pymoe.surgery.calibration import Calibration
from pymoe.train import evaluate, step
from pymoe.train.optim import OPTIMIZERS
from pymoe.train.settings import TrainSettings

text = "\n".join(topics[name] for name in sorted(topics))
letters = sorted(set(text))
ids = np.array([letters.index(c) for c in text[:120_000]])
train, held_out = ids[:100_000], ids[100_000:]

moe = presets.mixtral(d_model=32, d_ff=32, n_experts=8, k=2)
cfg = lm.LMConfig(vocab=len(letters), context=32, d_model=32, n_layers=2, n_heads=2, moe=moe)
settings = TrainSettings(steps=200, rows=16, window=32, lr=1e-2, floor=1e-3, warmup=20)
state = step.start(settings, cfg)
while state.step < settings.steps:
    state, _ = step.advance(settings, cfg, state, train)


def held(cfg, p):
    return evaluate.loss(p, cfg, held_out, window=32, rows=32, limit=64).loss


def tuned(made):
    """20 steps more, what is pruned stays zero."""
    gentle = TrainSettings(steps=20, rows=16, window=32, lr=2e-3, floor=2e-4, warmup=5, seed=1)
    state = step.State(0, made.p, OPTIMIZERS["adamw"].init(made.p), made.masks)
    while state.step < gentle.steps:
        state, _ = step.advance(gentle, made.cfg, state, train)
    assert all(not w[~made.masks[name]].any() for name, w in tree.flatten(state.p).items() if name in made.masks)
    return state.p


which = list(compress.candidates(cfg, [0.5, 0.75], ["magnitude", "sparsegpt"], ["reap"]))
rows = compress.run(
    state.p,
    cfg,
    which,
    text=Calibration(train, window=32, rows=16, limit=32),
    loss=held,
    speed_on=held_out[: 16 * 32].reshape(16, 32),
    tune=tuned,
)
print("\n".join(report.lines(rows)))
print()
print("\n".join(report.verdict(rows)))
