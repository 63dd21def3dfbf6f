"""A block of transformers, run once in float64: every number that the proof compares, as NumPy arrays.

Parameters, inputs and cotangents are drawn from seeds that their names give, so that a stored result needs only the
numbers that came out.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.hf.blocks.drawn import normal, parameter, seeded  # noqa: E402
from tests.hf.blocks.precise import Precise  # noqa: E402
from tests.hf.blocks.row import Row, tiny  # noqa: E402
from tests.hf.blocks.rows import ROWS  # noqa: E402

LEAST_MARGIN = 1e-5


class Result(NamedTuple):
    raw: Any  # what pymoe.hf.config is given
    state: dict[str, np.ndarray]  # parameters and buffers under their names
    x: np.ndarray  # (B, S, D)
    dy: np.ndarray  # like x
    inputs: dict[str, np.ndarray]  # what the block takes besides x
    y: np.ndarray
    logits: np.ndarray | None  # (T, E)
    idx: np.ndarray  # (T, K)
    weight: np.ndarray  # (T, K)
    dx: np.ndarray
    dinputs: dict[str, np.ndarray]  # of the inputs of floating-point numbers
    grads: dict[str, np.ndarray]  # of every parameter, under its name
    aux: float | None  # the model's own loss of this one layer
    aux_dx: np.ndarray | None  # its gradient
    labels: tuple[str, str]  # of the draws of the parameters, and of the inputs
    answered: int  # casts to float32 that were answered with float64


@contextlib.contextmanager
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def config_of(row: Row, changes: dict[str, Any]) -> Any:
    module = importlib.import_module(f"transformers.models.{row.folder}.configuration_{row.folder}")
    kind = getattr(module, row.config)
    cfg = kind(**{**tiny(kind), **row.settings, **changes})
    cfg._experts_implementation = "eager"
    return cfg


def block_of(row: Row, cfg: Any) -> Any:
    return row.build(modelling(row), cfg).double()


def modelling(row: Row) -> Any:
    return importlib.import_module(f"transformers.models.{row.folder}.modeling_{row.folder}")


def made(row: Row, changes: dict[str, Any], label: str) -> tuple[Any, Any]:
    """(config, block) of a row, every parameter and buffer drawn from its name."""
    cfg = config_of(row, changes)
    block = block_of(row, cfg)
    with torch.no_grad():
        for n, w in [*block.named_parameters(), *block.named_buffers()]:
            if w.is_floating_point():
                w.copy_(torch.from_numpy(parameter(n.replace(".inner", ""), tuple(w.shape), label)))
            else:
                w.copy_(torch.from_numpy(row.table(seeded(label, n), cfg, tuple(w.shape))))
    return cfg, block.eval()


def state_of(block: Any) -> dict[str, np.ndarray]:
    """Its parameters and buffers under transformers' names; ``inner`` is the part that a row has wrapped."""
    return {n.replace(".inner", ""): w.detach().numpy() for n, w in block.state_dict().items()}


def run(name: str, changes: dict[str, Any] | None = None) -> Result:
    """The block of a row with its settings (and ``changes``), inputs drawn until no choice is a near tie."""
    row, changes = ROWS[name], changes or {}
    label = f"{name}/{sorted(changes.items())}"
    with double():
        cfg, block = made(row, changes, label)
        for draw in range(50):
            found = _attempt(row, cfg, block, (label, f"{label}/{draw}"))
            if found is not None:
                return found
    raise AssertionError(f"{name}: no inputs with a margin of {LEAST_MARGIN} among 50 draws")


def _attempt(row: Row, cfg: Any, block: Any, labels: tuple[str, str]) -> Result | None:
    label = labels[1]
    x = normal("x", (*row.shape, row.width(cfg)), label)
    dy = normal("dy", x.shape, label)
    inputs = row.inputs(seeded(label, "inputs"), cfg, row.shape)
    seen: list[Any] = []
    hook = row.router(block).register_forward_hook(lambda module, given, out: seen.append(out))
    given = torch.from_numpy(x).requires_grad_()
    block.zero_grad()
    others = {n: torch.from_numpy(a) for n, a in inputs.items()}
    for a in others.values():
        a.requires_grad_(a.is_floating_point())
    with Precise() as mode:
        y = block(given.clone(), **others)
        y = y[0] if isinstance(y, tuple) else y
        y = y.reshape(x.shape)
        (y * torch.from_numpy(dy)).sum().backward(retain_graph=True)
    hook.remove()
    if mode.margin < LEAST_MARGIN:
        return None
    answered = mode.answered
    logits, weight, idx = row.routing(block, seen[0])
    grads = {n: np.zeros(tuple(w.shape)) if w.grad is None else w.grad.numpy() for n, w in block.named_parameters()}
    dx = given.grad.numpy().copy()
    dinputs = {n: a.grad.numpy().copy() for n, a in others.items() if a.requires_grad}
    aux = aux_dx = None
    if row.aux is not None:
        with Precise() as mode:
            loss = row.aux(modelling(row), logits, cfg)
        if mode.margin < LEAST_MARGIN:
            return None
        aux, aux_dx = float(loss.detach()), torch.autograd.grad(loss, given)[0].numpy()
    state = state_of(block)
    grads = {n.replace(".inner", ""): a for n, a in grads.items()}
    return Result(
        row.raw(cfg), state, x, dy, inputs, y.detach().numpy(), None if logits is None else logits.detach().numpy(),
        idx.detach().numpy(), weight.detach().numpy(), dx, dinputs, grads, aux, aux_dx, labels, answered,
    )  # fmt: skip
