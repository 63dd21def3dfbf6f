"""Stored weights by the name of their form: as plain values for a file's header, and back; a whole tree as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymoe.backend.errors import ConfigError
from pymoe.backend.namespace import Array
from pymoe.storage.bsr import BSR
from pymoe.storage.csr import CSR
from pymoe.storage.delta import Delta
from pymoe.storage.nm import NM
from pymoe.storage.sparse import Sparse
from pymoe.storage.weight import Weight

FORMS: dict[str, type[Weight]] = {"csr": CSR, "bsr": BSR, "nm": NM, "delta": Delta}


def describe(w: Weight) -> dict[str, Any]:
    """The form, the shape and the plain numbers of ``w``: what its arrays do not say.

    >>> import numpy as np
    >>> from pymoe.storage import nm
    >>> describe(nm.from_dense(np.array([[1.0, 0.0, 2.0, 0.0]]), 2, 4))
    {'form': 'nm', 'shape': [1, 4], 'm': 4}
    """
    name = next(name for name, kind in FORMS.items() if type(w) is kind)
    return {"form": name, "shape": list(w.shape)} | {k: v for k, v in w.structure().items() if isinstance(v, int)}


def arrays(w: Weight) -> dict[str, Array]:
    """All arrays of ``w``, values and structure, by name."""
    return w.parts() | {k: v for k, v in w.structure().items() if not isinstance(v, int)}


def restore(said: Mapping[str, Any], given: Mapping[str, Array]) -> Weight:
    """The Weight of ``describe`` and ``arrays``; a form or a structure that does not fit is an error of its own."""
    kind = FORMS.get(said.get("form", ""))
    if kind is None:
        raise ConfigError(f"a stored weight has one of the forms {sorted(FORMS)}, got {said.get('form')!r}")
    own = {k: v for k, v in said.items() if k not in ("form", "shape")}
    made = kind(**given, **own) if kind is Delta else kind(**given, **own, shape=tuple(said["shape"]))  # type: ignore[call-arg]
    if list(made.shape) != list(said["shape"]):
        raise ConfigError(f"a stored weight of shape {said['shape']} came as {list(made.shape)}")
    return made


def dense(p: Mapping[str, Any]) -> dict[str, Any]:
    """The tree ``p`` with every Weight as one array."""
    return {
        name: dense(value) if isinstance(value, Mapping) else value.dense() if isinstance(value, Weight) else value
        for name, value in p.items()
    }


def masks(p: Mapping[str, Any], prefix: str = "") -> dict[str, Array]:
    """{flat name: mask} of every sparse Weight in ``p``: where it stores, the rest is zero."""
    found: dict[str, Array] = {}
    for name, value in p.items():
        if isinstance(value, Mapping):
            found |= masks(value, f"{prefix}{name}.")
        elif isinstance(value, Sparse):
            found[prefix + name] = value.mask()
    return found
