"""F6: what Hugging Face keeps: folders (config.json, safetensors) of whole models, and the MoE blocks of transformers.

Whole models: llama and mistral (dense), mixtral (sparse) and the families of ``hf.models``.  ``read(folder)`` gives
the settings, the parameters and the tokenizer; ``open_mapped(folder)`` the same with the experts left in their files
until a token asks for one; ``write(folder, cfg, p, like=source)`` makes a new folder that transformers and others load
(llama, mistral, mixtral).

One block of any family with experts (``hf.blocks``): ``config(...)`` or ``preset("glm4_moe", ...)`` gives its settings,
``load`` its parameters from a state dict or from published files, ``dump`` puts values or gradients back under
transformers' names.

Sources: the checkpoints' layouts as transformers 5.23 writes and reads them; Touvron et al., arXiv:2302.13971; Jiang et
al., arXiv:2310.06825 and arXiv:2401.04088.
"""

from pymoe.hf.blocks import BlockConfig, config, dump, load, preset
from pymoe.hf.folder import Checkpoint, open_mapped, read, write

__all__ = ["BlockConfig", "Checkpoint", "config", "dump", "load", "open_mapped", "preset", "read", "write"]
