"""Train a tiny sparse language model and let it write: what temperature and top-p do to the next character.

The text is Python's own reference, in every Python; the last eighth is held out, and a dense model of the same active
size is trained beside the experts.  ``pymoe train`` and ``pymoe generate RUN`` are the same from the command line, with
checkpoints.  Usage: python 14_generate.py [FOLDER FOR THE PICTURE]
"""

import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from matplotlib.figure import Figure

from pymoe import presets
from pymoe.backend.rng import generator
from pymoe.models import lm
from pymoe.models.count import count_parameters
from pymoe.models.generate import Sampling, distribution, generate
from pymoe.train import evaluate, step, vocabulary
from pymoe.train.settings import TrainSettings

text = "\n".join(topics[name] for name in sorted(topics))[:400_000]
letters = vocabulary.of(text)
ids = letters.encode(text).astype(np.int64)
train, held_out = ids[: 7 * len(ids) // 8], ids[7 * len(ids) // 8 :]

experts = presets.mixtral(d_model=64, d_ff=64, n_experts=8, k=2)
sizes = {"vocab": letters.size, "context": 64, "d_model": 64, "n_layers": 2, "n_heads": 4}
MODELS = {"8 experts, 2 at work": lm.LMConfig(**sizes, moe=experts), "dense twin": lm.LMConfig(**sizes, d_ff=2 * 64)}
settings = TrainSettings(steps=600, rows=16, window=64, lr=6e-3, floor=6e-4, warmup=20)

curves, trained = {}, {}
for name, cfg in MODELS.items():
    state, curve = step.start(settings, cfg), []
    while state.step < settings.steps:
        state, _ = step.advance(settings, cfg, state, train)
        if state.step % 50 == 0:
            curve.append((state.step, evaluate.loss(state.p, cfg, held_out, window=64, rows=16, limit=200).loss))
    curves[name], trained[name] = np.array(curve), state.p
    active, held = count_parameters(cfg).active, curve[-1][1]
    print(f"{name:22s}{active:9,} parameters at work, held-out loss {held:.3f} nats a character")

cfg, p = MODELS["8 experts, 2 at work"], trained["8 experts, 2 at work"]
PROMPT = "The statement "
start = letters.encode(PROMPT).astype(np.int64)[None, :]
WAYS = {
    "greedy": Sampling(temperature=0.0),
    "temperature 0.5": Sampling(temperature=0.5),
    "temperature 1": Sampling(),
    "temperature 1, top-p 0.6": Sampling(top_p=0.6),
    "temperature 1.5": Sampling(temperature=1.5),
}
for name, sampling in WAYS.items():
    written = generate(start, p, cfg, 120, sampling=sampling, rng=generator(0))
    print(f"\n{name}:\n  {PROMPT + letters.decode(written)!r}")

logits = lm.forward(start, p, cfg)[0].logits[:, -1]
figure = Figure(figsize=(10, 4), dpi=130, layout="constrained")
left, right = figure.subplots(1, 2)
for (name, curve), colour, marker in zip(curves.items(), ("#0072B2", "#D55E00"), "os", strict=True):
    left.plot(curve[:, 0], curve[:, 1], color=colour, marker=marker, ms=4, label=name)
left.set(xlabel="optimiser step (1,024 characters each)", ylabel="held-out loss (nats a character)")
left.legend(frameon=False)
likely = np.argsort(-logits[0], kind="stable")[:12]
for shift, (name, colour) in enumerate(
    (
        ("temperature 0.5", "#E69F00"),
        ("temperature 1", "#0072B2"),
        ("temperature 1, top-p 0.6", "#56B4E9"),
        ("temperature 1.5", "#999999"),
    )
):
    right.bar(np.arange(12) + 0.2 * (shift - 1.5), distribution(logits, WAYS[name])[0, likely], 0.2, color=colour,
              label=name)  # fmt: skip
right.set(xticks=range(12), xticklabels=[repr(letters.token(i))[1:-1].replace(" ", "space") for i in likely])
right.set(xlabel=f"next character after {PROMPT!r}", ylabel="probability")
right.legend(frameon=False)
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
picture = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "generate.png"
figure.savefig(picture)
print(f"\npicture: {picture}")
assert all(curve[-1, 1] < 2.2 for curve in curves.values()), "guessing blindly costs log(letters) = 4.6"
