r"""Sub-models on subsets of the rows, each a softmax regression over all classes of the whole, trained side by side.

``fit`` trains one ``Task``; ``fit_all`` many, in ``n_jobs`` processes.  A task's own rows go to its process and nothing
else.  Processes are started by "forkserver" ("spawn" where there is none): a fork of a process whose BLAS or OpenMP has
threads can hang.  Both import the caller's main module again, so a script needs ``if __name__ == "__main__":``.

With ``folder`` each sub-model writes its state after every round, atomically (``io.checkpoint``), and a fit that was
killed goes on from there to the bits of one that was not.  A file of other data or settings is refused.

The result does not depend on ``n_jobs``.  Cost: ``descent`` of ``softmax_regression``, E of them on N/E rows each.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import os
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import scipy.sparse

from pymoe.backend.errors import CheckpointError, ConfigError, DataError, check_integer
from pymoe.io import atomic, checkpoint
from pymoe.pipeline import descent, softmax_regression
from pymoe.pipeline.descent import Settings, State

KEYS = ("weight", "bias")


@dataclasses.dataclass(frozen=True)
class Task:
    """What one sub-model is trained on, and how.

    x (N, D) dense or CSR, y (N,) classes in [0, n_classes), row_weight (N,) or None; l2 against the *sum* of the rows'
    losses (so 1 / C of scikit-learn); start (weight, bias): where it starts and is pulled to, None: 0; held_out: rows
    (x, y, row_weight) for early stopping.
    """

    x: Any
    y: np.ndarray
    n_classes: int
    row_weight: np.ndarray | None = None
    l2: float = 1.0
    start: tuple[np.ndarray, np.ndarray] | None = None
    held_out: tuple[Any, np.ndarray, np.ndarray | None] | None = None
    settings: Settings = Settings()
    name: str = "sub_model"


@dataclasses.dataclass(frozen=True)
class SubModel:
    """A trained sub-model: weight (C, D), bias (C,), and the losses of its rounds."""

    weight: np.ndarray
    bias: np.ndarray
    losses: tuple[float, ...]
    held_out: tuple[float, ...]

    def log_p(self, x: Any) -> np.ndarray:
        """log p(c | x) (N, C)."""
        found: np.ndarray = softmax_regression.log_p(x, self.weight, self.bias)
        return found


def fit(task: Task, folder: str | os.PathLike[str] | None = None) -> SubModel:
    """Train one sub-model; with ``folder`` from the state in ``folder/NAME.safetensors``, if there is one.

    >>> x, y = np.array([[1.0], [2.0], [-1.0], [-2.0]]), np.array([2, 2, 0, 0])
    >>> found = fit(Task(x, y, n_classes=3))
    >>> found.log_p(x).argmax(1).tolist(), bool(np.exp(found.log_p(x))[:, 1].min() > 0.02)  # class 1 was never seen
    ([2, 2, 0, 0], True)
    """
    x, y, classes = task.x, task.y, check_integer("n_classes", task.n_classes)
    if not x.shape[0]:
        raise DataError(f"{task.name} has no rows: make fewer subsets, or give more data")
    if not 0 <= task.l2 < float("inf"):
        raise ConfigError(f"l2 must be a finite number >= 0, got {task.l2!r}")
    total = float(x.shape[0] if task.row_weight is None else task.row_weight.sum())
    l2 = task.l2 / total if total else 0.0  # rows without weight are refused below
    x = x.astype(np.float64) if x.dtype != np.float64 else x

    def objective(p: descent.Parameters, rows: Any) -> tuple[float, descent.Parameters]:
        of = slice(None) if rows is None else rows
        s = None if task.row_weight is None else task.row_weight[of]
        part = x if rows is None else x[rows]
        loss, cache = softmax_regression.forward(
            part, p["weight"], p["bias"], y[of], row_weight=s, l2=l2, anchor=task.start
        )
        return float(loss), softmax_regression.backward(1.0, cache)[1]

    def held_out(p: descent.Parameters) -> float:
        assert task.held_out is not None
        rows, targets, s = task.held_out
        return float(softmax_regression.forward(rows, p["weight"], p["bias"], targets, row_weight=s)[0])

    start: Any = task.start or (np.zeros((classes, x.shape[1])), np.zeros(classes))
    state: Any = dict(zip(KEYS, start, strict=True))
    after = None
    if folder is not None:
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(os.fspath(folder), f"{task.name}.safetensors")
        proof = digest(task)
        if os.path.exists(path):
            state = restore(path, proof)

        def after(now: State) -> None:
            store(path, now, proof)

    end = descent.run(
        objective,
        state,
        task.settings,
        n_rows=int(x.shape[0]),
        held_out=None if task.held_out is None else held_out,
        after=after,
    )
    return SubModel(end.result["weight"], end.result["bias"], end.losses, end.held_out)


def fit_all(
    tasks: list[Task], *, n_jobs: int | None = 1, folder: str | os.PathLike[str] | None = None
) -> list[SubModel]:
    """``fit`` of each task, in ``n_jobs`` processes (None or 1: in this one; -1: as many as there are cores)."""
    workers = min(jobs(n_jobs), len(tasks))
    if len({task.name for task in tasks}) != len(tasks):
        raise ConfigError("each sub-model needs a name of its own: its file is called after it")
    if folder is not None:
        os.makedirs(folder, exist_ok=True)
        atomic.sweep(folder)
    if workers <= 1:
        return [fit(task, folder) for task in tasks]
    how = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(how)
    try:
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
            return [f.result() for f in [pool.submit(fit, task, folder) for task in tasks]]
    except BrokenProcessPool as error:
        raise ConfigError(
            f"a training process ended before it could answer ({error}): a script that trains with n_jobs={n_jobs} "
            'needs its own work under if __name__ == "__main__":, and memory for each process; or take n_jobs=1'
        ) from None


def jobs(n_jobs: int | None) -> int:
    """How many processes ``n_jobs`` means.

    >>> jobs(None), jobs(3), jobs(-1) >= 1
    (1, 3, True)
    """
    if n_jobs is None:
        return 1
    if n_jobs == -1:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return check_integer("n_jobs (or -1 for all cores, None for one)", n_jobs)


def store(path: str, state: State, proof: str) -> None:
    """Write the state of a descent."""
    groups = {"p": state.p, "best_p": state.best_p or {}, **{f"adam_{k}": v for k, v in state.optimiser.items()}}
    arrays = {f"{group}.{name}": a for group, parameters in groups.items() for name, a in parameters.items()}
    facts = {
        "round": state.round,
        "step": state.step,
        "done": state.done,
        "waited": state.waited,
        "numbers": {  # hexadecimal: exact, and infinity too
            "best": [float(state.best).hex()],
            "losses": [v.hex() for v in state.losses],
            "held_out": [v.hex() for v in state.held_out],
        },
        "proof": proof,
    }
    checkpoint.save(path, arrays, facts)


def restore(path: str, proof: str, *, keys: tuple[str, ...] = KEYS) -> State:
    """The state that ``store`` wrote, its parameters in the order of ``keys``; CheckpointError if of another proof."""
    arrays, facts = checkpoint.load(path)
    if facts.get("proof") != proof:
        raise CheckpointError(
            f"{path} belongs to a sub-model of other data or settings: give another folder, or remove this file"
        )
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, a in arrays.items():
        group, key = name.split(".")
        groups.setdefault(group, {})[key] = a
    ordered = {group: {key: found[key] for key in keys} for group, found in groups.items()}
    numbers = {name: tuple(float.fromhex(v) for v in values) for name, values in facts["numbers"].items()}
    return State(
        p=ordered["p"],
        optimiser={name[5:]: found for name, found in ordered.items() if name.startswith("adam_")},
        round=facts["round"],
        step=facts["step"],
        done=facts["done"],
        best_p=ordered.get("best_p"),
        best=numbers["best"][0],
        waited=facts["waited"],
        losses=numbers["losses"],
        held_out=numbers["held_out"],
    )


def digest(task: Task, **more: Any) -> str:
    """SHA-256 over all that decides the result of a task, and over ``more`` settings (JSON)."""
    h = hashlib.sha256()

    def add(a: Any) -> None:
        if scipy.sparse.issparse(a):
            h.update(b"csr")
            for part in (a.indptr, a.indices, a.data):
                add(part)
            h.update(repr(a.shape).encode())
        elif a is None:
            h.update(b"none")
        elif isinstance(a, tuple):
            for part in a:
                add(part)
        else:
            a = np.ascontiguousarray(a)
            h.update(f"{a.dtype.str}{a.shape}".encode() + a.tobytes())

    for part in (task.x, task.y, task.row_weight, task.start, task.held_out):
        add(part)
    facts = {"classes": task.n_classes, "l2": task.l2, **dataclasses.asdict(task.settings), **more}
    h.update(json.dumps(facts, sort_keys=True).encode())
    return h.hexdigest()
