"""Write ``vectors.npz`` and ``vectors.json``: what transformers computes in float64 for every row of the table.

Run as ``python -m tests.hf.blocks.make_vectors`` where torch and transformers are installed.  Parameters, inputs and
cotangents are not stored, their seeds are (``drawn``), and a fingerprint of them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.hf.blocks.drawn import fingerprint, shadow
from tests.hf.blocks.fields import FIELDS

FOLDER = Path(__file__).parent
NUMBERS, TEXT = FOLDER / "vectors.npz", FOLDER / "vectors.json"
KEPT = FIELDS | {"model_type", "vocab_size", "ffn_config", "per_layer_config"}


def settings(raw: Any) -> Any:
    """The fields of a config that a block reads."""
    raw = raw if isinstance(raw, dict) else raw.to_dict()
    return {n: settings(v) if n == "ffn_config" else v for n, v in raw.items() if n in KEPT}


def numbers(result: Any) -> dict[str, np.ndarray]:
    """Everything that came out, by name; and what went in that is not drawn from its name."""
    found = {n: getattr(result, n) for n in ("y", "dx", "logits", "idx", "weight", "aux", "aux_dx")}
    found = {n: np.asarray(a) for n, a in found.items() if a is not None}
    found |= {f"d {n}": shadow(n, a) for n, a in result.grads.items()}
    found |= {f"dinput {n}": a for n, a in result.dinputs.items()} | {f"input {n}": a for n, a in result.inputs.items()}
    return found | {f"state {n}": a for n, a in result.state.items() if a.dtype.kind in "iu"}


def main() -> None:
    import torch
    import transformers

    from tests.hf.blocks.reference import run
    from tests.hf.blocks.rows import ROWS

    flat, rows = {}, {}
    for name, row in ROWS.items():
        result = run(name)
        found = numbers(result)
        flat[name] = np.concatenate([a.astype(np.float64).ravel() for a in found.values()])
        rows[name] = {
            "config": settings(result.raw), "part": row.part, "layer": row.layer, "factor": row.factor,
            "labels": result.labels, "shape": result.x.shape, "numbers": [[n, *a.shape] for n, a in found.items()],
            "state": [[n, *a.shape] for n, a in result.state.items()],
            "inputs": fingerprint({"x": result.x, "dy": result.dy, **result.state}),
        }  # fmt: skip
    np.savez(NUMBERS, **flat)
    head = {
        "transformers": transformers.__version__, "torch": torch.__version__, "numpy": np.__version__,
        "experts": "eager", "dtype": "float64", "sha256": hashlib.sha256(NUMBERS.read_bytes()).hexdigest(),
    }  # fmt: skip
    lines = [f"  {json.dumps(n)}: {json.dumps(r)}" for n, r in rows.items()]
    TEXT.write_text(f'{{"made": {json.dumps(head)},\n "rows": {{\n' + ",\n".join(lines) + "\n }}\n")


if __name__ == "__main__":
    main()
