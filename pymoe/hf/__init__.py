"""F6: Hugging Face folders (config.json, safetensors) of the decoders that ``pymoe.models.lm`` is: read and written.

Families: llama and mistral (dense), mixtral (sparse).  ``read(folder)`` gives the settings, the parameters and the
tokenizer; ``write(folder, cfg, p, like=source)`` makes a new folder that transformers and others load.

Sources: the checkpoints' layouts as transformers 5.23 writes and reads them; Touvron et al., arXiv:2302.13971; Jiang et
al., arXiv:2310.06825 and arXiv:2401.04088.
"""

from pymoe.hf.folder import Checkpoint, read, write

__all__ = ["Checkpoint", "read", "write"]
