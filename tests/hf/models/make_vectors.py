"""Write ``vectors.json``: what transformers computes in float64 for the tiny models; a proof that needs no torch.

Run as ``python -m tests.hf.models.make_vectors`` where torch and transformers are installed.
"""

from __future__ import annotations

import json
import os
import tempfile

import numpy as np

from tests.hf.models import stored, tiny


def main() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import transformers
    from safetensors import safe_open
    from safetensors.numpy import save_file

    from tests.hf.double import casts_answered_in_double, frequencies_in_double

    greedily = {"max_new_tokens": stored.NEW, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
    found = {}
    for name in [*tiny.MODELS, *tiny.SWITCH]:
        switch = name in tiny.SWITCH
        architecture = "SwitchTransformersForConditionalGeneration" if switch else tiny.MODELS[name][1]
        kind = getattr(transformers, architecture)
        cfg = kind.config_class(**(tiny.SWITCH[name] if switch else tiny.settings(name)))
        with tempfile.TemporaryDirectory() as folder:
            kind(cfg).save_pretrained(folder)
            path = os.path.join(folder, "model.safetensors")
            with safe_open(path, "np") as file:
                shapes = {n: list(file.get_slice(n).get_shape()) for n in sorted(file.keys())}
            with open(os.path.join(folder, "config.json")) as file:
                raw = json.load(file)
            save_file(stored.weights(shapes), path, metadata={"format": "pt"})
            own = {} if switch else {"experts_implementation": "eager"}
            m = kind.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager", **own).eval()
        frequencies_in_double(m)
        ids, targets = torch.from_numpy(stored.IDS), torch.from_numpy(stored.TARGETS)
        with casts_answered_in_double(integers=True):
            if switch:
                logits = m(ids, decoder_input_ids=ids.flip(1), use_cache=False).logits
                greedy = m.generate(ids[:1], attention_mask=torch.ones_like(ids[:1]), **greedily)[0, 1:]
            else:
                logits = m(ids, use_cache=False).logits
                first = ids[:1, :3]
                greedy = m.generate(first, attention_mask=torch.ones_like(first), **greedily)[0, 3:]
        assert logits.dtype == torch.float64
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 19), targets.reshape(-1))
        loss.backward()
        gradients = {n: w.grad.numpy() for n, w in m.named_parameters() if w.grad is not None}
        numbers = stored.summary(logits.detach().numpy(), loss.item(), gradients, greedy.tolist())
        found[name] = {"config": raw, "shapes": shapes, **numbers}
    versions = {"transformers": transformers.__version__, "torch": torch.__version__, "numpy": np.__version__}
    with open(stored.FILE, "w") as file:
        json.dump({"versions": versions, "models": found}, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
