"""Where does sparsity pay?  The number of experts at equal active size: quality, time, memory.

``python benchmarks/experts.py [--experts 2 4 8 16 32] [--steps 1000] [--seeds 2] [--data FILE] [--out FOLDER]``

One language model (width 128, 3 layers, 2 experts of 128 a token) with more and more experts to choose from, and its
dense twin: every model computes the same for a token, up to the router, which the twin is given as width.  Trained
alike on the same text (tinyshakespeare where ``PYMOE_DATA`` is set, else the reference text inside Python).  Printed:
all and active parameters, held-out loss over the whole last tenth of the text (mean and range over the seeds),
milliseconds of a training step (medians of one interleaved run, a process each), and megabytes of the weights and of
the whole process at its peak.  The picture is experts.png in FOLDER (needs matplotlib).
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from typing import Any, NamedTuple

from interleave import Contender, medians, serve

from pymoe.cli import allocator, blas_core

WIDTH, LAYERS, HEADS, EXPERT, CHOICES = 128, 3, 4, 128, 2
DENSE = "dense"


class Row(NamedTuple):
    name: str  # number of experts, or DENSE
    parameters: int
    active: int
    losses: list[float]  # one a seed
    step: float  # seconds
    peak: float  # bytes of the process


def text() -> str:
    """tinyshakespeare of PYMOE_DATA, or the text inside Python."""
    from pymoe.train import data

    folder = os.path.join(os.environ.get("PYMOE_DATA", ""), "tinyshakespeare")
    if "PYMOE_DATA" not in os.environ:
        return data.TOPICS
    (name,) = [n for n in sorted(os.listdir(folder)) if n.endswith((".txt", ".gz"))]
    return os.path.join(folder, name)


def model(experts: str, vocab: int, window: int) -> Any:
    """The settings of the model with so many experts, or of the twin of the one with 8."""
    from pymoe import presets
    from pymoe.models.lm import LMConfig
    from pymoe.train import size

    n = 8 if experts == DENSE else int(experts)
    moe = presets.mixtral(d_model=WIDTH, d_ff=EXPERT, n_experts=n, k=CHOICES)
    cfg = LMConfig(vocab=vocab, context=window, d_model=WIDTH, n_layers=LAYERS, n_heads=HEADS, moe=moe)
    return size.dense_twin(cfg) if experts == DENSE else cfg


def worker(experts: str, source: str, steps: int, seeds: int) -> None:
    """Train when asked "=0", "=1", ... (a seed) and answer the held-out loss; "step" is one step after that."""
    import dataclasses

    from pymoe.models.count import count_parameters
    from pymoe.train import data, evaluate, step
    from pymoe.train.presets import PRESETS

    base = dataclasses.replace(PRESETS["shakespeare"].settings, steps=steps, warmup=min(100, steps // 5))
    corpus = data.load(source, window=base.window)
    cfg = model(experts, corpus.vocabulary.size, base.window)
    state = step.start(base, cfg)

    def train(seed: int) -> float:
        nonlocal state
        settings = dataclasses.replace(base, seed=seed)
        state = step.start(settings, cfg)
        while state.step < steps:
            state, _ = step.advance(settings, cfg, state, corpus.train)
        return evaluate.loss(state.p, cfg, corpus.held_out, window=base.window, rows=64).loss

    def sizes() -> str:
        count = count_parameters(cfg, state.p)
        return f"{count.total} {count.active}"

    answers: dict[str, Any] = {str(seed): lambda seed=seed: train(seed) for seed in range(seeds)}
    answers["sizes"] = sizes
    answers["peak"] = lambda: (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    )
    last = dataclasses.replace(base, steps=10 * steps)  # a step after the last one has no learning rate
    answers["step"] = lambda: step.advance(last, cfg, state, corpus.train)
    serve(answers)


def measure(names: list[str], source: str, steps: int, seeds: int, rounds: int) -> list[Row]:
    core = os.environ.get("OPENBLAS_CORETYPE") or blas_core.wanted()
    env = allocator.ENVIRONMENT | ({"OPENBLAS_CORETYPE": core} if core else {})
    given = ["--data", source, "--steps", str(steps), "--seeds", str(seeds)]
    contenders = [Contender(name, "experts.py", ["--worker", name, *given], env) for name in names]
    losses: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(seeds):
        for c in contenders:
            begin = time.perf_counter()
            losses[c.name].append(float(c.ask(f"={seed}")))
            print(
                f"  {label(c.name)}, seed {seed}: {losses[c.name][-1]:.4f} after {steps} steps"
                f"  [{time.perf_counter() - begin:.0f} s]",
                flush=True,
            )
    times = medians(contenders, ["step"], rounds, patience=60.0)
    rows = []
    for c in contenders:
        total, active = map(int, c.ask("=sizes").split())
        rows.append(Row(c.name, total, active, losses[c.name], times[c.name, "step"], float(c.ask("=peak"))))
        c.close()
    return rows


def label(name: str) -> str:
    return "dense twin" if name == DENSE else f"{CHOICES} of {name} experts"


def table(rows: list[Row]) -> str:
    lines = [
        f"  {'':16s} {'parameters':>11s} {'active':>9s} {'held-out loss':>14s} {'range':>8s} {'ms a step':>10s}"
        f" {'weights MB':>11s} {'peak MB':>8s}"
    ]
    for r in rows:
        spread = max(r.losses) - min(r.losses)
        lines.append(
            f"  {label(r.name):16s} {r.parameters:11,d} {r.active:9,d} {statistics.mean(r.losses):14.4f} {spread:8.4f}"
            f" {r.step * 1e3:10.1f} {r.parameters * 4 / 1e6:11.1f} {r.peak / 1e6:8.0f}"
        )
    return "\n".join(lines)


def draw(rows: list[Row], path: str, about: str) -> None:
    """Quality, time and memory over the number of experts, the dense twin as a line across."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    sparse = [r for r in rows if r.name != DENSE]
    dense = [r for r in rows if r.name == DENSE]
    n = [int(r.name) for r in sparse]
    panels = [
        ("held-out loss (nats a token)", lambda r: statistics.mean(r.losses)),
        ("training step (ms)", lambda r: r.step * 1e3),
        ("weights (MB)", lambda r: r.parameters * 4 / 1e6),
    ]
    for i, (ax, (what, value)) in enumerate(zip(figure.subplots(1, 3), panels, strict=True)):
        ax.plot(n, [value(r) for r in sparse], color="#0072B2", marker="o", label=f"{CHOICES} of E experts")
        if i == 0:
            for e, r in zip(n, sparse, strict=True):
                ax.plot([e] * len(r.losses), r.losses, ".", color="#0072B2", alpha=0.45)
        for r in dense:
            ax.axhline(value(r), color="#D55E00", ls="--", label="dense twin")
        ax.set_xscale("log", base=2)
        ax.set_xticks(n, [str(e) for e in n])
        ax.minorticks_off()
        ax.set_xlabel("number of experts E")
        ax.set_ylabel(what)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        if i > 0:
            ax.set_ylim(0, 1.1 * max(value(r) for r in rows))
    figure.axes[0].legend(frameon=False)
    figure.suptitle(about, fontsize=10)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, nargs="+", default=[2, 4, 8, 16, 32], metavar="E")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="how many seeds, from 0 on (2)")
    parser.add_argument("--rounds", type=int, default=30, help="timed steps of each (30)")
    parser.add_argument("--data", metavar="FILE", help="a text, plain or gzip")
    parser.add_argument("--out", metavar="FOLDER", default=".", help="where experts.png goes (here)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    allocator.keep()
    source = options.data or text()
    if options.worker:
        worker(options.worker, source, options.steps, options.seeds)
        return
    if min(options.experts) < CHOICES or options.steps < 1 or options.seeds < 1 or options.rounds < 1:
        parser.error(f"--experts must be at least {CHOICES}, --steps, --seeds and --rounds at least 1")
    names = [DENSE, *map(str, sorted(set(options.experts)))]
    shown = source if os.path.sep not in source else os.path.basename(source)
    print(f"text: {shown}; {options.steps} steps, {options.seeds} seed(s), {os.cpu_count()} cores")
    rows = measure(names, source, options.steps, options.seeds, options.rounds)
    print(table(rows))
    path = os.path.join(options.out, "experts.png")
    os.makedirs(options.out, exist_ok=True)
    draw(rows, path, f"equal active size, {options.steps} steps on {shown}")
    print(f"drawn: {path}")


if __name__ == "__main__":
    main()
