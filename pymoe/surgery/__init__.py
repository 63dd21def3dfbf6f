"""F6.5: whole models with their text: what tells about them, and prune, split, merge, compress.

=============== ===================================================================================================
``source``      a run of ``pymoe train`` or a Hugging Face folder, read, and the new folder beside it
``calibration`` what a text tells about a model: the inputs of its layers, their moments, gradients
``targets``     which matrices may be pruned, by name
``weights``     single weights: a score, a pattern, masks and what the others make up for
``movement``    scores from training itself
``experts``     whole experts, hidden units, choices at run time
``split``       a dense model's feed-forwards made into experts
``merge``       fewer experts, one dense feed-forward, one model of several
``compress``    every way tried and measured alike
``measure``     held-out loss, zeros, bytes, tokens a second
``report``      the table and the picture of ``compress``
=============== ===================================================================================================

The commands ``pymoe prune``, ``split``, ``merge`` and ``compress`` are these functions with options.
"""

from pymoe.surgery import (
    calibration,
    compress,
    experts,
    measure,
    merge,
    movement,
    report,
    source,
    split,
    targets,
    weights,
)

__all__ = [
    "calibration",
    "compress",
    "experts",
    "measure",
    "merge",
    "movement",
    "report",
    "source",
    "split",
    "targets",
    "weights",
]
