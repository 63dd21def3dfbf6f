"""Every rule that has a name: presets of a paper, presets of a published model, layers of their own."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pymoe import presets
from pymoe.backend.errors import ConfigError
from pymoe.hf.blocks import FAMILIES
from pymoe.moe.attention_experts import moa, switch_head
from pymoe.moe.rules import RULES

KINDS = {
    "preset": "settings of the layer (pymoe.presets.NAME)",
    "layer": "a layer of its own (pymoe.moe.rules.NAME)",
    "attention": "attention whose projections are experts (pymoe.moe.attention_experts.NAME)",
    "model": "the block of a published model (pymoe.hf.preset(NAME))",
}


class Entry(NamedTuple):
    name: str
    kind: str  # of KINDS
    target: Any  # the function of a preset, the module of a layer, the family of a model
    summary: str  # one sentence
    sources: tuple[str, ...]  # "arXiv:2401.04088"

    @property
    def doc(self) -> str:
        if self.kind != "model":
            return inspect.getdoc(self.target) or ""
        said = f"The MoE block of {self.name} as transformers 5.23 has it: {self.summary}."
        return f"{said}\nWhat its config.json decides stands at the default of its config class."


def entries() -> list[Entry]:
    """All of them, by kind and name.

    >>> {e.name: e.sources for e in entries() if e.kind == "preset"}["mixtral"]
    ('arXiv:2401.04088',)
    """
    found = [_entry(name, "preset", make) for name, make in sorted(presets.PRESETS.items())]
    found += [_entry(name, "layer", module) for name, module in sorted(RULES.items())]
    found += [_entry(module.__name__.rpartition(".")[2], "attention", module) for module in (moa, switch_head)]
    return found + [_model(name) for name in sorted(FAMILIES)]


def find(name: str) -> Entry:
    """The entry of a name; ConfigError with the nearest names for one that does not exist.

    >>> find("deepseek_v4x")
    Traceback (most recent call last):
        ...
    pymoe.backend.errors.ConfigError: there is no rule 'deepseek_v4x'; did you mean ...? `pymoe presets` lists all
    """
    known: dict[str, Entry] = {e.name: e for e in reversed(entries())}  # of one name the preset, which says more
    wanted = name.lower().replace("-", "_")
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else ";"
    raise ConfigError(f"there is no rule {name!r}{hint} `pymoe presets` lists all")


def _entry(name: str, kind: str, target: Any) -> Entry:
    doc = inspect.getdoc(target) or ""
    first = " ".join(doc.partition("\n\n")[0].split())
    summary = re.sub(r"\s*arXiv:\d{4}\.\d{4,5}.*$", "", first)
    return Entry(name, kind, target, summary, _sources(doc))


def _sources(doc: str) -> tuple[str, ...]:
    """The papers it names; of a rule without one the published code."""
    papers = re.findall(r"arXiv:\d{4}\.\d{4,5}", doc)
    code = [" ".join(found.split()) for found in re.findall(r"transformers,\s+``models/\w+|Megatron-LM", doc)]
    return tuple(dict.fromkeys(papers or (found.replace(", ``", " ") for found in code)))


def _model(name: str) -> Entry:
    """Its rule in words, from its settings."""
    family = FAMILIES[name]
    if family.rule is not None:
        return Entry(name, "model", family, f"the rule {family.rule.__name__.rpartition('.')[2]}", ())
    return Entry(name, "model", family, _words(family.settings) or "all of it is said by its config.json", ())


def _words(settings: Mapping[str, Any]) -> str:
    """The constants among the settings of a family, its losses last; what its config.json decides is not said here."""
    fixed = {n: v for n, v in settings.items() if n and isinstance(v, str | float | int) and v is not False}
    said = [n if v is True else f"{n} {v}" for n, v in fixed.items()]
    return ", ".join(sorted(said, key=lambda word: word.startswith("balance")))
