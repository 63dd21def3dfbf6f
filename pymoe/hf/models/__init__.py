"""Whole models of transformers with experts: their settings, their tensors, and experts read on demand.

Decoders (``family``) and one encoder-decoder (``switch``).

``config`` makes the settings of a model from its config.json, ``load`` and ``dump`` take its tensors there and back.
"""

from pymoe.hf.models import switch
from pymoe.hf.models.family import FAMILIES, ModelFamily, config, form
from pymoe.hf.models.tensors import dump, load

__all__ = ["FAMILIES", "ModelFamily", "config", "dump", "form", "load", "switch"]
