"""Train a small sparse language model from Python: the loop of ``pymoe train`` without the command, in a few seconds.

Everything is a value: the state of step n + 1 is a pure function of the state of step n, so that a run can be stopped
and taken up again anywhere, bit for bit.
"""

from pydoc_data.topics import topics

import numpy as np

from pymoe import presets
from pymoe.models import lm
from pymoe.train import evaluate, step
from pymoe.train.settings import TrainSettings

text = "\n".join(topics[name] for name in sorted(topics))
letters = sorted(set(text))
ids = np.array([letters.index(c) for c in text[:120_000]])
train, held_out = ids[:100_000], ids[100_000:]

router = presets.mixtral(d_model=48, d_ff=48, n_experts=8, k=2)
cfg = lm.LMConfig(vocab=len(letters), context=48, d_model=48, n_layers=2, n_heads=3, moe=router)
settings = TrainSettings(steps=400, rows=16, window=48, lr=6e-3, floor=6e-4, warmup=20)

state = step.start(settings, cfg)
while state.step < settings.steps:
    state, measured = step.advance(settings, cfg, state, train)
    if state.step % 50 == 0:
        held = evaluate.loss(state.p, cfg, held_out, window=48, rows=16, limit=64)
        load = np.array(measured.load[0])
        print(
            f"step {state.step:3d}  loss {measured.parts['lm']:.3f}  held-out loss {held.loss:.3f}  "
            f"load of the experts of layer 0: {load.tolist()}"
        )
assert held.loss < 2.6, "guessing one of the letters blindly costs log(number of letters) = 4.6"
