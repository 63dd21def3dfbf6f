"""F6: the MoE blocks of transformers: their settings, their parameters under transformers' names, their hub layouts.

``config`` reads a config.json of any of its families, ``load`` and ``dump`` take one block's arrays there and back, and
``module_of(cfg)`` is the module that runs it: ``pymoe.moe`` for all but three families.
"""

from pymoe.hf.blocks.families import FAMILIES, GROUPS
from pymoe.hf.blocks.family import BlockConfig
from pymoe.hf.blocks.settings import config, preset
from pymoe.hf.blocks.tensors import dump, expert, load, module_of

__all__ = ["FAMILIES", "GROUPS", "BlockConfig", "config", "dump", "expert", "load", "module_of", "preset"]
