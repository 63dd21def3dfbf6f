"""Write ``vectors.json``: what transformers computes in float64 for three tiny models; a proof that needs no torch.

Run as ``python -m tests.hf.make_vectors`` where torch and transformers are installed.  The weights are not stored: each
tensor is drawn from a seed that its name gives (``tests.hf.vectors``); the names and the logits are.
"""

from __future__ import annotations

import json
import os
import tempfile

import numpy as np

from tests.hf import vectors


def main() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import transformers
    from safetensors.numpy import save_file

    from tests.hf.double import angles_in_double, casts_answered_in_double

    found = {}
    for name, raw in vectors.CONFIGS.items():
        kind = getattr(transformers, raw["architectures"][0])
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "config.json"), "w") as file:
                json.dump(raw, file)
            save_file(vectors.tensors(raw), os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
            own = {"experts_implementation": "eager"} if name == "mixtral" else {}
            m = kind.from_pretrained(folder, dtype=torch.float64, **own).eval()
        angles_in_double(m, m.config.rope_parameters["rope_theta"])
        with torch.no_grad(), casts_answered_in_double():
            logits = m(torch.from_numpy(vectors.IDS)).logits
        assert logits.dtype == torch.float64
        found[name] = np.asarray(
            logits.numpy()[:, -2:, :]
        ).tolist()  # of the last two positions: they see all the others
    document = {"transformers": transformers.__version__, "torch": torch.__version__, "logits": found}
    with open(vectors.FILE, "w") as file:
        json.dump(document, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
