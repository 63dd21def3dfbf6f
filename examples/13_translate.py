"""Translate dates and names: a sparse encoder-decoder, from pairs that ship inside Babel (Unicode CLDR).

A date follows a rule, so held-out dates can be got right; a name only where it is built like others.  The dense twin
has as many parameters at work.  ``pymoe translate train`` is the same from the command line, larger, on files of your
own, with checkpoints and a folder that ``pymoe translate`` reads.  Needs pymoe[text], Babel and matplotlib.
Usage: python 13_translate.py [FOLDER FOR THE PICTURE [PAIR, such as en-zh]]
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pymoe.pipeline.translation import bpe, cldr, evaluate, job, settings, train
from pymoe.pipeline.translation.batches import Batches
from pymoe.train import size

pair = sys.argv[2] if len(sys.argv) > 2 else "en-de"
parts = cldr.load(pair)
vocabulary = bpe.train([*parts.train.source, *parts.train.target], 500)
sizes = settings.Sizes(d_model=64, layers=2, heads=4, d_ff=64, experts=8, k=2, dropout=0.0, smoothing=0.0, context=64)
sparse = settings.config(sizes, vocabulary.size)
how = settings.TranslateSettings(
    steps=400, lr=5e-3, floor=1e-4, warmup=40, beta2=0.98, decay=0.01, z=0.0, batch_tokens=1500
)
about = job.Text(parts.train.where, (), (), "")
print(
    f"{len(parts.train):,} pairs {pair} to learn from; held out {len(parts.dates):,} dates, {len(parts.names):,} names"
)

curves, scores, translated = {}, {}, {}
for name, model in {"experts": sparse, "dense": size.dense_twin(sparse)}.items():
    work = job.Job(name, model, how, vocabulary, about, False, {})
    data = train.prepared(work, parts.train, parts.held_out)
    batches = Batches(data.train, tokens=how.batch_tokens, seed=0)
    state, curve, begin = job.start(how, model), [], time.perf_counter()
    while state.step < how.steps:
        state, _ = train.advance(work, batches, state)
        if state.step % 50 == 0:
            curve.append((state.step, evaluate.loss(state.p, model, data.held)))
    seconds = time.perf_counter() - begin
    print(f"{name:8s} held-out loss {curve[-1][1]:.3f} nats a token  [{seconds:.0f} s]")
    for kind, test in (("dates", parts.dates), ("names", parts.names)):
        found = [one.text for one in evaluate.translate(test.source, state.p, model, vocabulary, width=2)]
        scores[name, kind] = evaluate.score(found, test.target)
        translated[name, kind] = found
        print(f"         {kind}: {scores[name, kind]}")
    curves[name] = np.array(curve)

for kind, test in (("dates", parts.dates), ("names", parts.names)):
    print(f"\n{kind}: source -> translation of the experts (= the reference)")
    for source, one, right in list(zip(test.source, translated["experts", kind], test.target, strict=True))[:4]:
        print(f"  {source} -> {one}" + (f" (= {right})" if one != right else ""))
assert scores["experts", "dates"].exact > 0.5, "a date follows a rule"

figure = Figure(figsize=(10, 4), dpi=130, layout="constrained")
left, right = figure.subplots(1, 2, width_ratios=[1.2, 1])
STYLE = {"experts": ("#0072B2", "o", "8 experts, 2 at work"), "dense": ("#E69F00", "s", "dense, as many at work")}
for i, (name, (colour, marker, label)) in enumerate(STYLE.items()):
    left.plot(curves[name][:, 0], curves[name][:, 1], color=colour, marker=marker, ms=4, label=label)
    exact = [100 * scores[name, kind].exact for kind in ("dates", "names")]
    bars = right.bar(np.arange(2) + 0.4 * (i - 0.5), exact, 0.38, color=colour, label=label)
    right.bar_label(bars, [f"{value:.0f} %" for value in exact])
left.set(xlabel="optimiser step", ylabel="held-out loss (nats a token)", ylim=(0, None))
left.legend(frameon=False)
right.set(xticks=range(2), xticklabels=["dates", "names"], ylabel="held out, exactly right (%)", ylim=(0, 108))
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
figure.suptitle(f"Names and dates of the CLDR, {pair}")
picture = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "translate.png"
figure.savefig(picture)
print(f"\npicture: {picture}")
