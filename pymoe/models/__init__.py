"""F5: whole models, dense or sparse, each with ``init``, ``draw``, ``forward`` and ``backward``.

- ``lm``: a decoder-only language model;
- ``classifier``: an encoder with a classification head;
- ``seq2seq``: an encoder-decoder;
- ``generate``: sampling from ``lm`` and ``seq2seq`` with a KV cache;
- ``beam``: beam search with ``seq2seq``;
- ``count``: numbers of parameters, total and active.

All three are made of ``stack`` and ``block``.  Each names the loss of its targets: ``lm.LOSS`` is "lm".
"""

from pymoe.models import beam, block, classifier, count, generate, lm, losses, seq2seq, stack
from pymoe.models.classifier import ClassifierConfig
from pymoe.models.config import Multipliers, TransformerConfig
from pymoe.models.count import Count, count_parameters, module_of
from pymoe.models.generate import GREEDY, Sampling
from pymoe.models.lm import LMConfig
from pymoe.models.seq2seq import Seq2SeqConfig

__all__ = [
    "GREEDY",
    "ClassifierConfig",
    "Count",
    "LMConfig",
    "Multipliers",
    "Sampling",
    "Seq2SeqConfig",
    "TransformerConfig",
    "beam",
    "block",
    "classifier",
    "count",
    "count_parameters",
    "generate",
    "lm",
    "losses",
    "module_of",
    "seq2seq",
    "stack",
]
