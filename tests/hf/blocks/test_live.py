"""Every block of the installed transformers beside pymoe, in float64: outputs, choices, and every gradient."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from pymoe import hf  # noqa: E402
from pymoe.backend.errors import CheckpointError  # noqa: E402
from pymoe.hf import blocks  # noqa: E402
from pymoe.hf.blocks.defaults import DEFAULTS  # noqa: E402
from tests.hf.blocks import compare, make_defaults, reference  # noqa: E402
from tests.hf.blocks.fields import FIELDS  # noqa: E402
from tests.hf.blocks.precise import Precise  # noqa: E402
from tests.hf.blocks.rows import ROWS  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
CASES = [(name, variant) for name, row in ROWS.items() for variant in ("", *row.variants)]


# Folders of transformers whose code speaks of experts, and that are no mixture with a router of its own.
OTHERS = {
    "vitpose_backbone": "the data set that an image comes from names its expert, one output layer; nothing is routed",
    "bamba": "num_experts is a field of its config that says 1; no module has experts",
}


def test_every_folder_of_the_installed_transformers_with_experts_is_a_family_here() -> None:
    models = Path(transformers.__file__).parent / "models"
    speaks = re.compile(r"use_experts_implementation|num_experts|class \w*(?:Experts|SparseMoe|MoE|TopkRouter)\b")
    found = {f.parent.name for f in models.glob("*/modeling_*.py") if speaks.search(f.read_text())}
    assert found == {row.folder for row in ROWS.values()} | set(OTHERS)


def test_every_family_has_a_row_and_every_row_a_family() -> None:
    assert {row.family or name for name, row in ROWS.items()} == set(blocks.FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), CASES, ids=[f"{name}-{variant or 'as it is'}" for name, variant in CASES])
def test_a_block(name: str, variant: str) -> None:
    row = ROWS[name]
    result = reference.run(name, row.variants.get(variant))
    found = compare.errors(result.raw, result, row.part, row.layer, row.factor)
    assert len(found) >= 4
    assert max(found.values()) < compare.TOLERANCE, found


@pytest.mark.parametrize("what", ["y", "dx", "weight", "grads"])
def test_control_a_result_that_is_off_by_a_millionth_of_a_millionth_is_seen(what: str) -> None:
    result = reference.run("hunyuan_v1_moe")
    assert max(compare.errors(result.raw, result).values()) < compare.TOLERANCE
    off = 1 + 3e-12
    value = {n: a * off for n, a in result.grads.items()} if what == "grads" else getattr(result, what) * off
    assert max(compare.errors(result.raw, result._replace(**{what: value})).values()) > compare.TOLERANCE


def test_control_two_experts_that_are_swapped_are_seen() -> None:
    result = reference.run("hunyuan_v1_moe")
    swapped = {n: a[[1, 0, *range(2, len(a))]] if n.startswith("experts") else a for n, a in result.state.items()}
    found = compare.errors(result.raw, result._replace(state=swapped))
    assert found["y"] > 1e-3 and found["d experts.down_proj"] > 1e-3


def test_control_a_cast_that_slips_through_fails() -> None:
    with Precise() as mode, pytest.raises(AssertionError, match="slipped through"):
        torch.ones(3, dtype=torch.float64).half()
    with Precise() as mode:
        assert torch.ones(3, dtype=torch.float64).float().dtype == torch.float64
    assert mode.answered == 1


def test_the_margin_is_that_of_the_nearest_other_choice() -> None:
    values = torch.tensor([[3.0, 1.0, 2.5], [0.0, 4.0, 3.75]], dtype=torch.float64)
    with Precise() as mode:
        torch.topk(values, 2, dim=-1)
        assert mode.margin == 1.5
        values.argmax(dim=-1)
    assert mode.margin == 0.25


def test_a_router_that_casts_is_answered_in_float64() -> None:
    assert reference.run("mistral_large4").answered >= 2


def test_the_defaults_are_those_of_the_installed_transformers() -> None:
    assert make_defaults.defaults() == DEFAULTS


@pytest.mark.parametrize("name", ROWS)
def test_every_name_that_transformers_has_for_a_field_is_read(name: str) -> None:
    """``attribute_map`` gives some fields a second name; a config.json may have either."""
    row = ROWS[name]
    cfg = reference.config_of(row, {})
    raw = row.raw(cfg)
    plain = raw if isinstance(raw, dict) else raw.to_dict()
    want = read_as(plain, row)
    for pair in type(cfg).attribute_map.items():
        for one, other in (pair, pair[::-1]):
            if other in plain and other in FIELDS:
                rest = {n: v for n, v in plain.items() if n not in pair}
                assert read_as(rest | {one: plain[other]}, row) == want, (one, other)


def test_dots3_note_has_the_fields_of_its_published_config_too() -> None:
    from transformers.models.dots3_note.configuration_dots3_note import Dots3NoteVisionConfig

    old = {
        "embed_dim": 8, "num_heads": 2, "pyramid_num_routed": [-1, 7, 2], "capacity_factor": 3, "router_scale": 1.5,
        "moe_intermediate_size": 5, "num_hidden_layers": 3, "adapter_in_dim": 8,
    }  # fmt: skip
    theirs = Dots3NoteVisionConfig(**old)
    for layer, (n, k) in {1: (7, 3), 2: (2, 2)}.items():
        want = hf.config(theirs, part="vision", layer=layer)
        got = hf.config(old | {"model_type": "dots3_note_vision_encoder"}, part="vision", layer=layer)
        assert got == want and (got.n_experts, got.k, got.d_model, got.router.scale) == (n, k, 8, 1.5)


@pytest.mark.parametrize("name", ROWS)
def test_a_config_with_nothing_said_is_the_preset(name: str) -> None:
    row = ROWS[name]
    module = importlib.import_module(f"transformers.models.{row.folder}.configuration_{row.folder}")
    kind = module.DbrxConfig if name == "dbrx" else getattr(module, row.config)
    try:
        theirs = kind()
    except Exception:
        pytest.skip("this class cannot be made without settings")
    sizes = {"d_model": 2048} if name == "dbrx" else {}  # the class has one in itself and another in its ffn_config
    try:
        want = hf.config(theirs, part=row.part, layer=row.layer)
    except CheckpointError as error:
        with pytest.raises(CheckpointError, match=re.escape(str(error))):
            hf.preset(row.family or name, layer=row.layer)
    else:
        assert hf.preset(row.family or name, layer=row.layer, **sizes) == want


def read_as(raw: Any, row: Any) -> Any:
    return dataclasses.replace(hf.config(raw, part=row.part, layer=row.layer), family="")


@pytest.mark.parametrize("name", ROWS)
def test_a_config_object_and_its_dict_say_the_same(name: str) -> None:
    """``to_dict`` calls some fields by other names than the object does."""
    row = ROWS[name]
    cfg = reference.config_of(row, {})
    raw = row.raw(cfg)
    plain = raw if isinstance(raw, dict) else raw.to_dict()
    assert read_as(raw, row) == read_as(plain, row)
    assert np.all([isinstance(v, (bool, int, float, str, type(None), list, dict, tuple)) for v in plain.values()])
