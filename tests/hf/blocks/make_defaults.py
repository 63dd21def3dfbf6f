"""Write ``pymoe/hf/blocks/defaults.py``: what transformers takes a field for that a config.json leaves out.

Run as ``python -m tests.hf.blocks.make_defaults`` where transformers is installed.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import textwrap
from pathlib import Path
from typing import Any

import pymoe
from pymoe.hf.blocks.family import SYNONYMS
from tests.hf.blocks.rows import ROWS

FILE = Path(pymoe.__file__).parent / "hf" / "blocks" / "defaults.py"
FIELDS = {name for names in SYNONYMS.values() for name in names} | set(
    (
        "intermediate_size norm_topk_prob shared_expert_intermediate_size shared_intermediate_size "
        "ffn_hidden_size d_ff  moe_shared_expert_intermediate_size share_expert_dim "
        "shared_experts_intermediate_size mlp_bias use_bias  topk_group topk_method swiglu_limit swiglu_alpha "
        "swiglu_limits swiglu_limits_shared rms_norm_eps post_norm_eps  ffn_act_fn moe_normalize_expert_weights "
        "expert_selection_fn shared_expert_combination_strategy  output_multiplier moe_norm_min moe_hidden_size "
        "moe_latent_size moe_router_logit_softcapping use_expert_bias  scoring_func zero_expert_num "
        "mlp_gate_softcap mlp_up_softcap expert_capacity router_bias encoder_ffn_dim  decoder_ffn_dim "
        "part_features mlp_ratio second_expert_policy normalize_router_prob_before_dropping "
        "batch_prioritized_routing router_hidden_size moe_eval_capacity_token_fraction router_jitter_noise "
    ).split()
)
HEADER = '''"""What a field means that a config.json leaves out: written by ``tests/hf/blocks/make_defaults.py``.

Source: the config classes of transformers {version}; a test compares this file with the installed ones.
"""

from __future__ import annotations

from typing import Any

DEFAULTS: dict[str, dict[str, Any]] = '''


def defaults() -> dict[str, dict[str, Any]]:
    """Family -> the fields of its config class that a block reads and that have a default."""
    found = {}
    for name, row in ((row.family or name, row) for name, row in ROWS.items()):
        module = importlib.import_module(f"transformers.models.{row.folder}.configuration_{row.folder}")
        kind = getattr(module, row.config)
        found[name] = {f.name: value for f in dataclasses.fields(kind) if f.name in FIELDS
                       if (value := default(f)) is not None}  # fmt: skip
        if name.startswith("deepseek_v4"):  # its table of experts has a row for each token id
            found[name]["vocab_size"] = default({f.name: f for f in dataclasses.fields(kind)}["vocab_size"])
    return found


def default(field: Any) -> Any:
    value = field.default if field.default is not dataclasses.MISSING else None
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    return value if isinstance(value, (bool, int, float, str, list)) else None


def main() -> None:
    import transformers

    lines = [HEADER.format(version=transformers.__version__) + "{"]
    for name, fields in sorted(defaults().items()):
        inside = ", ".join(f"{json.dumps(n)}: {v!r}".replace("'", '"') for n, v in sorted(fields.items()))
        text = f"{json.dumps(name)}: {{{inside}}},"
        lines += textwrap.wrap(text, 116, initial_indent="    ", subsequent_indent="        ", break_long_words=False)
    FILE.write_text("\n".join(lines) + "\n}  # fmt: skip\n")


if __name__ == "__main__":
    main()
