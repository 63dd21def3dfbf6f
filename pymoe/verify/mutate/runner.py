"""Run every mutant of every target against its suite, in processes, and say which survive."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import multiprocessing
import os
import signal
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pymoe import kernels
from pymoe.backend.errors import PymoeError
from pymoe.verify.mutate import isolate, operators, suites

CHUNK = 40  # mutants a task: small enough to share the work out, large enough to pay for the import


class SuiteError(PymoeError, AssertionError):
    """A suite fails on the unbroken module, so its verdict on mutants means nothing."""


@dataclass(frozen=True)
class Target:
    """A module, and the suites ("file.py:NAME" or test files) that must notice when it is broken."""

    module: str
    suites: tuple[str, ...]
    every: int = 1  # 1: all mutants; n: one in n, told by its key, so that a change elsewhere does not move the sample


@dataclass(frozen=True)
class Verdict:
    module: str
    key: str
    line: int
    kind: str
    killed_by: str  # "" for a survivor, "(nothing to scale)" for a numeric mutant without a float in it
    seconds: float

    @property
    def survived(self) -> bool:
        return not self.killed_by


@dataclass(frozen=True)
class Result:
    verdicts: tuple[Verdict, ...]
    accepted: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def judged(self) -> list[Verdict]:
        return [v for v in self.verdicts if v.killed_by != NOTHING]

    @property
    def survivors(self) -> list[Verdict]:
        """Survivors that are not on the accepted list."""
        return [v for v in self.verdicts if v.survived and v.key not in self.accepted]

    @property
    def stale(self) -> list[str]:
        """Accepted keys of the modules that ran which no longer survive: they must leave the list."""
        alive = {v.key for v in self.verdicts if v.survived}
        ran = {v.module for v in self.verdicts}
        return [k for k in self.accepted if k.split(":")[0] in ran and k not in alive]

    def table(self) -> str:
        lines = [f"{'module':<44} {'mutants':>7} {'killed':>7} {'accepted':>8} {'survived':>8} {'s':>6}"]
        for module in dict.fromkeys(v.module for v in self.verdicts):
            mine = [v for v in self.judged if v.module == module]
            survived = sum(v.module == module for v in self.survivors)
            lines.append(_row(module, len(mine), sum(v.survived for v in mine), survived, sum(v.seconds for v in mine)))
        alive = sum(v.survived for v in self.judged)
        return "\n".join([*lines, _row("all", len(self.judged), alive, len(self.survivors), self.seconds)])


def _row(name: str, n: int, alive: int, survived: int, seconds: float) -> str:
    return f"{name:<44} {n:>7} {n - alive:>7} {alive - survived:>8} {survived:>8} {seconds:>6.1f}"


NOTHING = "(nothing to scale)"


def run(
    targets: Sequence[Target], jobs: int | None = None, accepted: Mapping[str, str] | None = None, limit: float = 5.0
) -> Result:
    """Judge all mutants of ``targets``; ``limit``: seconds of CPU after which a mutant counts as killed (it hangs).

    Each suite must pass on the unbroken module first (SuiteError otherwise).  Runs on the reference kernels: they are
    what is mutated, the compiled ones are compared with them elsewhere.
    """
    started = time.perf_counter()
    tasks = []
    for target in targets:
        n = len(list(_mutants(target)))
        tasks += [(target, lo, min(lo + CHUNK, n), limit) for lo in range(0, n, CHUNK)]
    jobs = os.cpu_count() or 1 if jobs is None else jobs
    if jobs == 1:
        chunks = [_judge(*task) for task in tasks]
    else:
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            chunks = list(pool.map(_judge, *zip(*tasks, strict=True)))
    verdicts = tuple(v for chunk in chunks for v in chunk)
    return Result(verdicts, dict(accepted or {}), time.perf_counter() - started)


def _mutants(target: Target) -> Iterator[operators.Mutant]:
    source = inspect.getsource(importlib.import_module(target.module))
    for m in operators.mutants(source, target.module):
        if zlib.crc32(m.key.encode()) % target.every == 0:
            yield m


def _judge(target: Target, lo: int, hi: int, limit: float) -> list[Verdict]:
    with (
        kernels.using("reference"),
        isolate.poisoned(),
        warnings.catch_warnings(),
        np.errstate(divide="warn", over="warn", invalid="warn", under="ignore"),
    ):
        warnings.simplefilter("error")  # as in the test run
        checks = _passing(target)
        verdicts = []
        for m in list(_mutants(target))[lo:hi]:
            started = time.perf_counter()
            killed_by, scaler = "", None
            try:
                with isolate.replaced(m.module, m.tree) as scaler:
                    killed_by = _first_failure(checks, limit)
            except Exception as e:  # the mutant does not even import
                killed_by = f"import: {type(e).__name__}"
            if not killed_by and m.kind == "numeric" and scaler is not None and scaler.called and not scaler.scaled:
                killed_by = NOTHING
            else:
                _move_to_front(checks, killed_by)
            verdicts.append(Verdict(m.module, m.key, m.line, m.kind, killed_by, time.perf_counter() - started))
        return verdicts


_PASSED: dict[str, list[Any]] = {}  # in this process: suites that were seen to pass on the unbroken source


def _passing(target: Target) -> list[Any]:
    """The checks of all suites of the target; SuiteError if one of them fails before anything is broken."""
    for spec in target.suites:
        if spec not in _PASSED:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                checks = suites.load(spec)
            if not checks and "::" not in spec:
                raise SuiteError(f"{target.module}: the suite {spec} holds no check")
            failed = _first_failure(checks, 60.0)
            if failed:
                raise SuiteError(f"{target.module}: the unbroken module fails {spec}: {failed}")
            _PASSED[spec] = checks
    checks = [c for spec in target.suites for c in _PASSED[spec]]
    if not checks:
        raise SuiteError(f"{target.module}: the suites {target.suites} hold no check")
    return checks


def _name(check: Any) -> str:
    return str(getattr(check, "__name__", None) or getattr(getattr(check, "func", None), "__name__", repr(check)))


def _first_failure(checks: list[Any], limit: float) -> str:
    """The name of the first check that raises or hangs, "" if all pass."""
    try:
        return _first_raising(checks, limit)
    except _Hangs:  # the alarm went off between two statements of ours
        return "a check: _Hangs"


def _first_raising(checks: list[Any], limit: float) -> str:
    for check in checks:
        try:
            with _time_limit(limit):
                check()
        except KeyboardInterrupt:
            raise
        except BaseException as e:  # pytest's own outcomes are no Exceptions
            if type(e).__name__ != "Skipped":
                return f"{_name(check)}: {type(e).__name__}"
    return ""


def _move_to_front(checks: list[Any], killed_by: str) -> None:
    """The check that killed the last mutant probably kills the next one."""
    for i, check in enumerate(checks):
        if killed_by.startswith(_name(check) + ":"):
            checks.insert(0, checks.pop(i))
            return


class _Hangs(Exception):
    pass


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def stop(signum: int, frame: Any) -> None:
        raise _Hangs(f"more than {seconds} s")

    try:
        old = signal.signal(signal.SIGPROF, stop)
    except (ValueError, AttributeError):  # not the main thread, or no such signal on this system
        yield
        return
    signal.setitimer(
        signal.ITIMER_PROF, seconds, 0.5
    )  # CPU time: a busy machine kills nobody; again, if the first is caught
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
