"""F6: training.  Optimisers, schedules, clipping, text and its batches, the loop, and what a run leaves behind.

- ``step``, ``objective``, ``masking``, ``settings``: one optimiser step as a function of values;
- ``fit``, ``evaluate``: the loops; ``plan``, ``sparse_fit``: with masks that change as it goes;
- ``optim``, ``schedule``, ``clip``: SGD, Adam, AdamW, the learning rate, the global norm;
- ``data``, ``vocabulary``: text to ids to batches;
- ``job``, ``run``, ``presets``, ``size``, ``kinds``, ``plots``: what the command keeps, chooses, counts and draws.
"""

from pymoe.train import (
    clip,
    data,
    evaluate,
    fit,
    job,
    kinds,
    masking,
    objective,
    optim,
    plan,
    plots,
    presets,
    run,
    schedule,
    settings,
    size,
    sparse_fit,
    step,
    vocabulary,
)

__all__ = [
    "clip",
    "data",
    "evaluate",
    "fit",
    "job",
    "kinds",
    "masking",
    "objective",
    "optim",
    "plan",
    "plots",
    "presets",
    "run",
    "schedule",
    "settings",
    "size",
    "sparse_fit",
    "step",
    "vocabulary",
]
