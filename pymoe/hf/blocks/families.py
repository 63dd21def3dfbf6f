"""Every family by name, and which of them a model_type means."""

from __future__ import annotations

from pymoe.hf.blocks import group_a, group_b, group_c, group_d, group_e, group_f, group_g
from pymoe.hf.blocks.family import Family

GROUPS = {
    "A": group_a.FAMILIES,
    "B": group_b.FAMILIES,
    "C": group_c.FAMILIES,
    "D": group_d.FAMILIES,
    "E": group_e.FAMILIES,
    "F": group_f.FAMILIES,
    "G": group_g.FAMILIES,
}
FAMILIES: dict[str, Family] = {family.name: family for group in GROUPS.values() for family in group}


def of_type(model_type: str) -> list[Family]:
    """The blocks that a model of this type has, its main one first.

    >>> [family.name for family in of_type("qwen3_omni_moe")]
    ['qwen3_omni_moe', 'qwen3_omni_moe.talker']
    """
    return [family for family in FAMILIES.values() if model_type in family.types]
