"""Every small way to break a module: its syntax tree with one node changed.

Structural: keep the left or right operand, + <-> -, * <-> /, swap operands and adjacent arguments, drop ``.T``, a
minus, a keyword, a slice bound or a statement, flip comparisons and booleans, force a branch, 0 <-> 1 and n + 1,
another axis, max <-> min, zeros <-> ones, sum <-> mean.  Numeric, on what a backward assigns and returns: times
1 + 1e-3, times 1 + 1e-8, times -1.

Left alone: docstrings, annotations, imports, ``raise`` with its message, and guards (an ``if`` that only raises, calls
and definitions of input checks): bad input has its own tests.  ``device=``, ``copy=``, zip's ``strict=`` and the
presence of ``stable=True`` are left alone: they change no bits on the CPU, or are the default.
"""

from __future__ import annotations

import ast
import copy
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

EPSILONS = (1e-3, 1e-8)
SCALE = "__pymoe_scale__"  # the helper that numeric mutants call; the runner puts it into the module
BACKWARD = re.compile(r"backward|_d(x|w|weight)$|^d_|^_?grad")
GUARDS = re.compile(r"^(\w+\.)?(checks\.\w+|_?check\w*|_?validate\w*|_refuse\w*)$")

_BINARY: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.MatMult: (),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
}
_COMPARE: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_NAMES = {
    "max": "min",
    "min": "max",
    "zeros": "ones",
    "ones": "zeros",
    "zeros_like": "ones_like",
    "ones_like": "zeros_like",
}
_NAMES |= {
    "sum": "mean",
    "mean": "sum",
    "argmax": "argmin",
    "argmin": "argmax",
    "maximum": "minimum",
    "minimum": "maximum",
}
_SILENT_VALUES = {"device", "strict", "copy"}  # on the CPU; where lengths agree; bits are the same
_SILENT_KEYWORDS = _SILENT_VALUES | {"stable"}  # True is the default
_SYMMETRIC = {"namespace", "result_type"}


@dataclass(frozen=True)
class Mutant:
    """One change; ``key`` names it independently of line numbers."""

    module: str
    function: str
    line: int
    kind: str
    change: str
    ordinal: int
    build: Callable[[], ast.Module]

    @property
    def tree(self) -> ast.Module:
        """The whole module with the change in it (made on demand: copying a tree is the slow part)."""
        return self.build()

    @property
    def key(self) -> str:
        return f"{self.module}:{self.function}: {self.change}" + (f" #{self.ordinal}" if self.ordinal > 1 else "")


Edit = Callable[[ast.AST], ast.AST | None]  # the new node; None drops the statement


def mutants(source: str, module: str, *, numeric: bool = True, guards: bool = False) -> Iterator[Mutant]:
    """All mutants of ``source``, in the order of the file.

    >>> [m.change for m in mutants("def f(a, b):\\n    return a - b\\n", "m")]
    ['a - b -> a', 'a - b -> b', 'a - b -> a + b', 'a - b -> b - a']
    """
    tree = ast.parse(source)
    seen: Counter[tuple[str, str]] = Counter()
    for path, node, function in _sites(tree, guards):
        for kind, after, edit in _edits(node, function.rpartition(".")[2], numeric):
            change = f"{_text(node)} -> {after}"
            seen[function, change] += 1
            build = partial(_replaced, tree, path, edit)
            yield Mutant(module, function, getattr(node, "lineno", 0), kind, change, seen[function, change], build)


def scalings(source: str, module: str) -> Iterator[tuple[str, Callable[[float], ast.Module]]]:
    """(key, factor -> mutated module) for every value that a backward assigns or returns.

    >>> source = "def backward(dy, cache):\\n    dx = 2 * dy\\n    return dx, {}\\n"
    >>> [key for key, _ in scalings(source, "m")]
    ['m:backward: dx = 2 * dy', 'm:backward: return (dx, {}) [0]']
    """
    tree = ast.parse(source)
    for path, node, function in _sites(tree, guards=False):
        if BACKWARD.search(function.rpartition(".")[2]):
            for label, where in _scalable(node):
                yield f"{module}:{function}: {_text(node)}{label}", partial(_scaled_module, tree, path, where)


def _scaled_module(tree: ast.Module, path: Path, where: tuple[int, ...], factor: float) -> ast.Module:
    return _replaced(tree, path, partial(_scaled_value, where=where, factor=factor))


Path = tuple[tuple[str, int | None], ...]


def _sites(tree: ast.Module, guards: bool) -> Iterator[tuple[Path, ast.AST, str]]:
    """(path, node, qualified function) of everything that may be changed."""

    def visit(node: ast.AST, path: Path, function: str) -> Iterator[tuple[Path, ast.AST, str]]:
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Raise, ast.Assert, ast.JoinedStr)):
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring
        if not guards and _is_guard(node):
            return
        if isinstance(node, ast.keyword) and node.arg in _SILENT_VALUES:
            return
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            function = f"{function}.{node.name}".lstrip(".")
        elif path:
            yield path, node, function or "(module)"
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "ctx", "op", "ops", "bases", "type_params"):
                continue
            if isinstance(node, ast.FunctionDef) and field == "args":
                defaults = [*enumerate(value.defaults)]
                for i, d in defaults:
                    yield from visit(d, (*path, ("args", None), ("defaults", i)), function)
                for i, d in enumerate(value.kw_defaults):
                    if d is not None:
                        yield from visit(d, (*path, ("args", None), ("kw_defaults", i)), function)
            elif isinstance(value, list):
                for i, child in enumerate(value):
                    if isinstance(child, ast.AST):
                        yield from visit(child, (*path, (field, i)), function)
            elif isinstance(value, ast.AST):
                yield from visit(value, (*path, (field, None)), function)

    yield from visit(tree, (), "")


def _is_guard(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef):
        return bool(GUARDS.match(node.name))
    if isinstance(node, ast.If):
        return all(isinstance(s, ast.Raise) or _is_guard(s) for s in node.body) and not node.orelse
    return (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and bool(GUARDS.match(_text(node.value.func)))
    )


def _text(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 100 else text[:70] + " ... " + text[-25:]


def _replaced(tree: ast.Module, path: Path, edit: Edit) -> ast.Module:
    root = copy.deepcopy(tree)
    parent: ast.AST = root
    for field, i in path[:-1]:
        value = getattr(parent, field)
        parent = value if i is None else value[i]
    field, i = path[-1]
    value = getattr(parent, field)
    new = edit(value if i is None else value[i])
    if i is None:
        setattr(parent, field, new)
    elif new is None:
        value[i] = ast.copy_location(ast.Pass(), value[i])
    else:
        value[i] = new
    return ast.fix_missing_locations(root)


def _edits(node: ast.AST, function: str, numeric: bool) -> Iterator[tuple[str, str, Edit]]:
    """(kind, text after, edit) for every way to break this node."""
    if isinstance(node, ast.BinOp):
        yield from _binary(node)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        for other in _COMPARE[type(node.ops[0])]:
            yield _changed("compare", node, _put(ops=[other()]))
    elif isinstance(node, ast.BoolOp):
        yield _changed("bool", node, _put(op=ast.Or() if isinstance(node.op, ast.And) else ast.And()))
    elif isinstance(node, (ast.If, ast.IfExp)):
        for value in (True, False):
            yield "branch", f"if {value}", _put(test=ast.Constant(value))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not, ast.Invert)):
        yield _changed("drop", node, _take("operand"))
    elif isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
        yield _changed("drop", node, _take("value"))
    elif isinstance(node, ast.Attribute) and node.attr in _NAMES:
        yield _changed("name", node, _put(attr=_NAMES[node.attr]))
    elif isinstance(node, ast.Call):
        yield from _call(node)
    elif isinstance(node, ast.Slice):
        for bound in ("lower", "upper"):
            if getattr(node, bound) is not None:
                yield "drop", f"without {bound}", _put(**{bound: None})
    elif isinstance(node, ast.Constant):
        yield from _constant(node)
    elif isinstance(node, (ast.Assign, ast.AugAssign, ast.Expr)) and _droppable(node):
        yield "drop", "(dropped)", lambda n: None
    if numeric and BACKWARD.search(function):
        yield from _numeric(node)


def _binary(node: ast.BinOp) -> Iterator[tuple[str, str, Edit]]:
    yield _changed("keep", node, _take("left"))
    yield _changed("keep", node, _take("right"))
    for other in _BINARY.get(type(node.op), ()):
        yield _changed("operator", node, _put(op=other()))
    if isinstance(node.op, (ast.Sub, ast.Div, ast.MatMult)):
        yield _changed("swap", node, _swapped_operands)


_UNDO = ("matrix_transpose", "permute_dims", "real", "exp", "log")  # calls that may be dropped: f(x) -> x


def _call(node: ast.Call) -> Iterator[tuple[str, str, Edit]]:
    if isinstance(node.func, ast.Attribute) and node.func.attr in _UNDO and node.args:
        yield _changed("drop", node, _first_argument)
    symmetric = _text(node.func).rpartition(".")[2] in _SYMMETRIC
    for i, (a, b) in enumerate(zip(() if symmetric else node.args, node.args[1:], strict=False)):
        if isinstance(a, ast.Name) and isinstance(b, ast.Name):
            yield _changed("swap", node, partial(_swapped_arguments, i=i))
    for i, keyword in enumerate(node.keywords):
        if keyword.arg is not None and keyword.arg not in _SILENT_KEYWORDS:
            yield _changed("keyword", node, partial(_without_keyword, i=i))
        if keyword.arg == "axis":
            yield _changed("axis", node, partial(_other_axis, i=i))


def _constant(node: ast.Constant) -> Iterator[tuple[str, str, Edit]]:
    value = node.value
    if isinstance(value, bool):
        yield "constant", str(not value), _put(value=not value)
    elif isinstance(value, (int, float)):
        others = [1 - value, value + 1] if value in (0, 1) else [value + 1]
        for other in dict.fromkeys(others):
            yield "constant", str(other), _put(value=other)


def _numeric(node: ast.AST) -> Iterator[tuple[str, str, Edit]]:
    for label, where in _scalable(node):
        for factor in (*(1 + e for e in EPSILONS), -1.0):
            what = f"{label} times {_factor(factor)}".lstrip()
            yield "numeric", what, partial(_scaled_value, where=where, factor=factor)


def _scalable(node: ast.AST) -> list[tuple[str, tuple[int, ...]]]:
    """(label, place) of the values of a statement that can be multiplied by a factor."""
    if isinstance(node, ast.Assign) and not isinstance(node.value, (ast.Name, ast.Constant)):
        if isinstance(node.value, ast.Call) and _text(node.value.func).rpartition(".")[2] in ("empty", "empty_like"):
            return []  # scaling what is not yet written changes nothing
        return [("", ())]
    if isinstance(node, ast.Return) and node.value is not None:
        return [(f" {label}".rstrip(), where) for label, where in _returned(node.value)]
    return []


def _take(field: str) -> Edit:
    return lambda n: getattr(n, field)


def _put(**fields: object) -> Edit:
    return lambda n: _set(n, fields)


def _set(node: ast.AST, fields: dict[str, object]) -> ast.AST:
    for name, value in fields.items():
        setattr(node, name, copy.deepcopy(value))
    return node


def _changed(kind: str, node: ast.AST, edit: Edit) -> tuple[str, str, Edit]:
    after = edit(copy.deepcopy(node))
    return kind, "" if after is None else _text(after), edit


def _factor(f: float) -> str:
    return "-1" if f == -1 else f"(1 + {f - 1:.0e})"


def _returned(value: ast.expr) -> list[tuple[str, tuple[int, ...]]]:
    """The parts of a returned value: members of a tuple, and of a dict within it."""
    if not isinstance(value, ast.Tuple):
        return [("", ())]
    parts: list[tuple[str, tuple[int, ...]]] = []
    for i, e in enumerate(value.elts):
        if isinstance(e, ast.Dict) and all(k is not None for k in e.keys):
            parts += [(f"[{i}][{_text(k)}]", (i, j)) for j, k in enumerate(e.keys) if k is not None]
        elif not isinstance(e, ast.Constant):
            parts.append((f"[{i}]", (i,)))
    return parts


def _scaled_at(value: ast.expr, where: tuple[int, ...], factor: float) -> ast.expr:
    if not where:
        return _scale(value, factor)
    assert isinstance(value, ast.Tuple)
    member = value.elts[where[0]]
    if len(where) == 1:
        value.elts[where[0]] = _scale(member, factor)
    else:
        assert isinstance(member, ast.Dict)
        member.values[where[1]] = _scale(member.values[where[1]], factor)
    return value


def _scale(value: ast.expr, factor: float) -> ast.expr:
    return ast.Call(ast.Name(SCALE, ast.Load()), [value, ast.Constant(factor)], [])


def _scaled_value(n: Any, where: tuple[int, ...], factor: float) -> ast.AST:
    n.value = _scaled_at(n.value, where, factor)
    return cast(ast.AST, n)


def _first_argument(n: Any) -> ast.AST:
    return cast(ast.AST, n.args[0])


def _swapped_operands(n: Any) -> ast.AST:
    n.left, n.right = n.right, n.left
    return cast(ast.AST, n)


def _swapped_arguments(n: Any, i: int) -> ast.AST:
    n.args[i], n.args[i + 1] = n.args[i + 1], n.args[i]
    return cast(ast.AST, n)


def _without_keyword(n: Any, i: int) -> ast.AST:
    del n.keywords[i]
    return cast(ast.AST, n)


def _other_axis(n: Any, i: int) -> ast.AST:
    old = _text(n.keywords[i].value)
    n.keywords[i].value = ast.Constant({"0": 1, "1": 0, "-1": 0}.get(old, -1))
    return cast(ast.AST, n)


def _droppable(node: ast.AST) -> bool:
    """Dropping a first definition is a NameError and teaches nothing: only what redefines, writes or calls."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call)
    if isinstance(node, ast.AugAssign):
        return True
    assert isinstance(node, ast.Assign)
    names = {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    written = any(isinstance(t, ast.Subscript) for t in node.targets)
    return written or bool(names & {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)})
