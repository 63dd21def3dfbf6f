"""Every rule that has a name: presets of a paper, presets of a published model, layers of their own."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from pymoe import presets
from pymoe.backend.errors import ConfigError
from pymoe.moe.rules import RULES

KINDS = {
    "preset": "settings of the layer (pymoe.presets.NAME)",
    "layer": "a layer of its own (pymoe.moe.rules.NAME)",
}


class Entry(NamedTuple):
    name: str
    kind: str  # of KINDS
    target: Any  # the function of a preset, the module of a layer
    summary: str  # one sentence
    sources: tuple[str, ...]  # "arXiv:2401.04088"

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.target) or ""


def entries() -> list[Entry]:
    """All of them, by kind and name.

    >>> {e.name: e.sources for e in entries()}["mixtral"]
    ('arXiv:2401.04088',)
    """
    found = [_entry(name, "preset", make) for name, make in sorted(presets.PRESETS.items())]
    return found + [_entry(name, "layer", module) for name, module in sorted(RULES.items())]


def find(name: str) -> Entry:
    """The entry of a name; ConfigError with the nearest names for one that does not exist.

    >>> find("deepseek_v4x")
    Traceback (most recent call last):
        ...
    pymoe.backend.errors.ConfigError: there is no rule 'deepseek_v4x'; did you mean ...? `pymoe presets` lists all
    """
    known = {e.name: e for e in entries()}
    wanted = name.lower().replace("-", "_")
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else ";"
    raise ConfigError(f"there is no rule {name!r}{hint} `pymoe presets` lists all")


def _entry(name: str, kind: str, target: Callable[..., Any]) -> Entry:
    doc = inspect.getdoc(target) or ""
    first = " ".join(doc.partition("\n\n")[0].split())
    summary = re.sub(r"\s*arXiv:\d{4}\.\d{4,5}.*$", "", first)
    return Entry(name, kind, target, summary, tuple(dict.fromkeys(re.findall(r"arXiv:\d{4}\.\d{4,5}", doc))))
