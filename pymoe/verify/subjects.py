"""Whatever has ``forward`` and ``backward``, seen as one function of named float tensors with named outputs.

An op module, a layer module, a whole model, a class, a namespace: the checks of ``pymoe.verify`` only ever see a
``Subject``.  Conventions (the floors of pymoe follow them, and so may any file of yours):

- ``forward(*args, **static) -> (out, cache)``.  Floating-point arrays and trees (nested dicts) among the positional
  arguments are differentiated; integers, booleans, ``None``, configurations and all keywords are passed through.
  A ``storage.Weight`` among the arrays of a tree is refused, since its values would not be looked at; ``storage.split``
  shows them, and the dict of templates that it makes is passed through.
- ``out`` is an array; or has ``.y`` and perhaps ``.losses`` (a dict of scalars); or is a tuple whose floating members
  are the outputs.  Whatever else it carries (``out.routing``) is ignored.
- ``backward(dy, cache)`` or, with losses, ``backward(dy, cache, {loss: cotangent})`` returns ``(d<first>, rest)`` with
  ``rest`` the gradient tree of the one parameter tree, or a dict by argument name; or a tuple of one gradient for each
  differentiated argument.  The gradient of an integer first argument is ``None``.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pymoe.backend import tree
from pymoe.backend.errors import ConfigError, GradientError
from pymoe.storage import Weight
from pymoe.verify import walk

Flat = dict[str, np.ndarray]


@dataclass(frozen=True)
class Argument:
    """A differentiated argument: its position, its name, and for a tree the names of its leaves ({leaf: flat name})."""

    position: int
    name: str
    leaves: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Evaluation:
    outputs: Flat  # "y" and "losses.<name>"; "[i]" for the members of a tuple
    out: Any
    cache: Any

    @functools.cached_property
    def decisions(self) -> Flat:
        """The integer and boolean arrays of ``out`` and ``cache`` by path."""
        return walk.decisions({"out": self.out, "cache": self.cache})


@dataclass(frozen=True)
class Subject:
    """One function of named tensors with a hand-written backward; ``tamper`` breaks its gradients on purpose."""

    name: str
    call_forward: Callable[..., Any]
    call_backward: Callable[..., Any]
    args: tuple[Any, ...]
    static: Mapping[str, Any]
    arguments: tuple[Argument, ...]
    losses: tuple[str, ...] | None = None  # which losses get a cotangent; None: all
    tamper: Callable[[Flat], Flat] | None = None

    @property
    def values(self) -> Flat:
        """The differentiated tensors by name."""
        flat: Flat = {}
        for a in self.arguments:
            if a.leaves is None:
                flat[a.name] = self.args[a.position]
            else:
                leaves = tree.flatten(self.args[a.position])
                flat.update({name: leaves[leaf] for leaf, name in a.leaves.items()})
        return flat

    def forward(self, values: Flat) -> Evaluation:
        """Evaluate at ``values`` (all names); no array among them can be written to."""
        args = list(self.args)
        for a in self.arguments:
            if a.leaves is None:
                args[a.position] = values[a.name]
            else:
                leaves = tree.flatten(args[a.position])
                args[a.position] = tree.unflatten(leaves | {leaf: values[name] for leaf, name in a.leaves.items()})
        complex_step = any(v.dtype.kind == "c" for v in values.values())
        with _guard(self.name, "forward", complex_step):
            result = self.call_forward(*args, **self.static)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise GradientError(f"{self.name}: forward must return (out, cache), got {type(result).__name__}")
        out, cache = result
        outputs = self._outputs(out)
        if complex_step:
            for name, value in outputs.items():
                if value.dtype.kind != "c":
                    raise GradientError(
                        f"{self.name}: output {name!r} is {value.dtype} although the inputs are complex: the "
                        "imaginary part was lost on the way (a cast, a float64 buffer, abs, .real)"
                    )
        return Evaluation(outputs, out, cache)

    def _outputs(self, out: Any) -> Flat:
        named: dict[str, Any] = {}
        if hasattr(out, "y"):
            named["y"] = out.y
            for loss, value in (getattr(out, "losses", None) or {}).items():
                if self.losses is None or loss in self.losses:
                    named[f"losses.{loss}"] = value
        elif isinstance(out, tuple):
            named = {f"[{i}]": v for i, v in enumerate(out) if _floating(v)}
        else:
            named["y"] = out
        if not named or not all(_floating(v) for v in named.values()):
            kinds = {k: type(v).__name__ for k, v in named.items()}
            raise GradientError(
                f"{self.name}: forward must return floating arrays (or .y, .losses), got {kinds or out!r}"
            )
        return {k: np.asarray(v) for k, v in named.items()}

    def backward(self, cotangents: Flat, cache: Any) -> Flat:
        """The gradients by name, for the cotangents of the outputs by name."""
        losses = {k.removeprefix("losses."): v for k, v in cotangents.items() if k.startswith("losses.")}
        direct = [v for k, v in cotangents.items() if not k.startswith("losses.")]
        dy = direct[0] if len(direct) == 1 else tuple(direct)
        with _guard(self.name, "backward", False):
            raw = self.call_backward(dy, cache, losses) if losses else self.call_backward(dy, cache)
        flat = self._gradients(raw)
        return flat if self.tamper is None else self.tamper(flat)

    def _gradients(self, raw: Any) -> Flat:
        """Sort what backward returned to the names of ``values``; wrong keys and shapes are errors, both ways."""
        if not isinstance(raw, tuple) or len(raw) < 1:
            raise GradientError(f"{self.name}: backward must return a tuple (dx, gradients), got {type(raw).__name__}")
        first = next((a for a in self.arguments if a.position == 0), None)
        rest = [a for a in self.arguments if a.position != 0]
        by_name = len(raw) == 2 and isinstance(raw[1], Mapping) and (first is not None or raw[0] is None)
        got: dict[str, Any] = {}
        if by_name:
            if first is not None:
                got.update(self._leaves(first, raw[0]))
            if len(rest) == 1 and rest[0].leaves is not None and set(raw[1]) != {rest[0].name}:
                return got | self._leaves(rest[0], raw[1])
            self._same_keys("backward's dict", set(raw[1]), {a.name for a in rest})
            for a in rest:
                got.update(self._leaves(a, raw[1][a.name]))
            return got
        gradients = raw[1:] if first is None and raw[0] is None else raw
        if len(gradients) != len(self.arguments):
            raise GradientError(
                f"{self.name}: backward must return (d<first argument>, dict), with None for a first argument that is "
                f"not floating point, or one gradient for each of {[a.name for a in self.arguments]}; "
                f"got a tuple of {len(raw)}"
            )
        for a, g in zip(self.arguments, gradients, strict=True):
            got.update(self._leaves(a, g))
        return got

    def _leaves(self, a: Argument, g: Any) -> dict[str, Any]:
        if a.leaves is None:
            return {a.name: self._array(a.name, g, self.args[a.position])}
        if not isinstance(g, Mapping):
            raise GradientError(f"{self.name}: the gradient of {a.name!r} must be a tree, got {type(g).__name__}")
        leaves = tree.flatten(self.args[a.position])
        # integer leaves may have any gradient, or none
        flat = {k: v for k, v in tree.flatten(g).items() if k in a.leaves or k not in leaves}
        self._same_keys(f"the gradient tree of {a.name!r}", set(flat), set(a.leaves))
        return {a.leaves[k]: self._array(a.leaves[k], v, leaves[k]) for k, v in flat.items()}

    def _same_keys(self, what: str, got: set[str], expected: set[str]) -> None:
        if got != expected:
            raise GradientError(
                f"{self.name}: {what} has wrong keys: missing {sorted(expected - got)}, "
                f"unexpected {sorted(got - expected)} "
                "(a tensor passed by keyword is static: pass what is to be differentiated by position)"
            )

    def _array(self, name: str, g: Any, like: np.ndarray) -> np.ndarray:
        if not isinstance(g, (np.ndarray, np.generic)):
            raise GradientError(f"{self.name}: the gradient of {name!r} must be an array, got {type(g).__name__}")
        array: np.ndarray = np.asarray(g)
        if array.shape != like.shape:
            raise GradientError(
                f"{self.name}: the gradient of {name!r} has shape {g.shape}, not {like.shape} as {name!r}"
            )
        if array.dtype != like.dtype:
            raise GradientError(f"{self.name}: the gradient of {name!r} is {g.dtype}, but {name!r} is {like.dtype}")
        return array


def subject(
    target: Any, *args: Any, losses: tuple[str, ...] | list[str] | None = None, dtype: Any = np.float64, **static: Any
) -> Subject:
    """See ``target`` as a Subject at ``args``; floats become read-only copies of ``dtype`` (None: keep theirs)."""
    if isinstance(target, Subject):
        if args or static:
            raise ConfigError("a Subject carries its arguments: pass it alone")
        return target
    if not (callable(getattr(target, "forward", None)) and callable(getattr(target, "backward", None))):
        raise ConfigError(f"gradcheck needs something with forward and backward, got {type(target).__name__}")
    names = _names(target.forward, len(args))
    promoted = tuple(_promote(a, dtype) for a in args)
    for position, a in enumerate(promoted):
        _no_stored(names[position], a)
    trees = [i for i, a in enumerate(promoted) if _is_tree(a)]
    taken = {names[i] for i, a in enumerate(promoted) if _floating(a)}
    arguments = []
    for i, a in enumerate(promoted):
        if _floating(a):
            arguments.append(Argument(i, names[i]))
        elif i in trees:
            leaves = [k for k, v in tree.flatten(a).items() if _floating(v)]
            bare = len(trees) == 1 and not taken & set(leaves)
            arguments.append(Argument(i, names[i], {k: k if bare else f"{names[i]}.{k}" for k in leaves}))
    if not arguments:
        raise ConfigError("nothing to differentiate: no positional argument is a floating array or a tree of them")
    name = getattr(target, "__name__", type(target).__name__)
    return Subject(
        name,
        target.forward,
        target.backward,
        promoted,
        static,
        tuple(arguments),
        None if losses is None else tuple(losses),
    )


def _names(function: Callable[..., Any], n: int) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # compiled without a signature
        parameters = {}.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [names[i] if i < len(names) else f"argument{i}" for i in range(n)]


def _floating(a: Any) -> bool:
    return isinstance(a, (np.ndarray, np.generic)) and a.dtype.kind in "fc"


def _is_tree(a: Any) -> bool:
    return isinstance(a, Mapping) and any(_floating(leaf) for leaf in tree.flatten(a).values())


def _no_stored(name: str, a: Any) -> None:
    """ConfigError for a stored weight among arrays: no step would reach its values, and the check would pass."""
    leaves = tree.flatten(a, f"{name}.") if _is_tree(a) else {}
    stored = [leaf for leaf, value in leaves.items() if isinstance(value, Weight)]
    if stored:
        raise ConfigError(
            f"{', '.join(stored)} is stored as a {type(leaves[stored[0]]).__name__}, whose values are no arrays of the "
            "tree and would not be checked: give the tree of storage.split, e.g. to pymoe.moe.stored"
        )


def _promote(a: Any, dtype: Any) -> Any:
    if isinstance(a, Mapping):
        return {k: _promote(v, dtype) for k, v in a.items()}
    if not isinstance(a, (np.ndarray, np.generic)):
        return a
    copy = np.array(a, dtype=dtype if _floating(a) and dtype is not None else a.dtype, order="C")
    copy.setflags(write=False)
    return copy


@contextmanager
def _guard(name: str, which: str, complex_step: bool) -> Iterator[None]:
    """A lost imaginary part and a write into a read-only array become a GradientError that says so."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            yield
    except np.exceptions.ComplexWarning as e:
        raise GradientError(f"{name}: {which} casts complex to real, so the imaginary part is lost: {e}") from e
    except ValueError as e:
        if "read-only" in str(e) or "read only" in str(e):
            raise GradientError(f"{name}: {which} writes into an array it did not allocate ({e})") from e
        raise
    except TypeError as e:
        if complex_step:
            raise GradientError(f"{name}: {which} cannot be evaluated at complex inputs: {e}") from e
        raise


def same_decisions(name: str, a: Evaluation, b: Evaluation, why: str) -> None:
    """DecisionError unless all integer and boolean arrays of the two evaluations are equal."""
    from pymoe.verify.report import DecisionError

    first, second = a.decisions, b.decisions
    for path in {**first, **second}:
        if path not in first or path not in second or not walk.same_bits(first[path], second[path]):
            raise DecisionError(f"{name}: the decision {path[1:]} is not the same {why}")
