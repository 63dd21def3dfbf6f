"""``pymoe prune``: a sparse model beside the dense one."""

from __future__ import annotations

import argparse
import math
import re
from typing import Any

import numpy as np

from pymoe.backend import to_numpy, tree
from pymoe.backend.errors import ConfigError
from pymoe.backend.rng import generator
from pymoe.cli import changed
from pymoe.cli.bar import Bar
from pymoe.sparsity import masks as mask_rules
from pymoe.surgery import experts, measure, movement, source, targets, weights
from pymoe.surgery.source import Source, Text
from pymoe.surgery.weights import Pattern
from pymoe.train import masking
from pymoe.train.plan import Plan

_DRAW = 6  # the key of this use of the generator


def run(args: argparse.Namespace) -> int:
    family = _family(args.method)
    pattern = _pattern(args) if family == "weights" else Pattern()
    if not 0 <= args.sparsity <= 1:
        raise ConfigError(f"--sparsity is the share that goes and must lie in [0, 1], got {args.sparsity}")
    _fitting(args, family)
    origin = changed.opened(args, args.source)
    if origin.job is None and args.store != "dense":
        raise ConfigError(f"--store {args.store} is for runs: a Hugging Face folder holds every matrix with its zeros")
    if origin.job is None and family == "skip":
        raise ConfigError("--method skip is for runs: a Hugging Face folder cannot say which choices are left out")
    text = _text(args, origin, family)
    with changed.place(args.source, _suffix(args, pattern), args.out) as folder:
        before = None if text is None else changed.held_out(origin.cfg, origin.p, text)
        cfg, p, masks, done = _prune(args, origin, text, family, pattern)
        source.writable(origin, cfg)
        record: dict[str, Any] = {"command": "prune", "method": args.method, "seed": args.seed, **done}
        if pattern.kind != "n:m" and args.method not in ("skip", "threshold"):
            record["sparsity"] = args.sparsity
        if family == "weights":
            record |= {"pattern": str(pattern), "what": args.what, "schedule": args.schedule}
        after = None if text is None else changed.held_out(cfg, p, text)
        if args.finetune:
            assert text is not None
            record["pruned"] = after
            p, masks = _trained(args, origin, cfg, p, masks, text, record, folder.folder)
            after = changed.held_out(cfg, p, text)
        kept = measure.stored(p, masks, args.store, nm=pattern.nm, block=pattern.block)
        record |= changed.table((origin.cfg, origin.p, origin.masks, before), (cfg, kept, masks, after))
        if args.finetune:
            print(f"  (after {args.finetune} steps of masked fine-tuning; before them {record['pruned']:.4f})")
        if not (args.finetune and origin.job is not None and args.store == "dense"):
            source.write(origin, folder.folder, cfg, kept, masks, record)
        changed.record_file(folder.folder, "prune.json", record)
        changed.next_lines(folder.folder, origin)
    return 0


def _family(method: str) -> str:
    if method in (*weights.METHODS, "threshold"):
        return "weights"
    if method in experts.METHODS:
        return "experts"
    if method in ("units", "skip"):
        return method
    every = ", ".join((*weights.METHODS, "threshold", *experts.METHODS, "units", "skip"))
    raise ConfigError(f"--method must be one of {every}, got {method!r}")


def _suffix(args: argparse.Namespace, pattern: Pattern) -> str:
    """The end of the new folder's name: the method, the share, and the pattern where it says more."""
    if args.method in ("skip", "threshold"):
        return str(args.method)
    if pattern.kind == "n:m":
        return f"{args.method}-{pattern.nm[0]}of{pattern.nm[1]}"
    return f"{args.method}-{args.sparsity:g}" + (f"-{args.pattern}" if pattern.kind != "unstructured" else "")


def _fitting(args: argparse.Namespace, family: str) -> None:
    """ConfigError for an option that this method would not look at: better than a model that is not what was asked."""
    given = {
        "--pattern": args.pattern != "unstructured", "--scope": args.scope is not None,
        "--what": args.what != "experts", "--store": args.store != "dense",
        "--schedule": args.schedule != "one-shot", "--threshold": args.threshold is not None,
    }  # fmt: skip
    allowed = {"--pattern", "--scope", "--what", "--store", "--schedule"} if family == "weights" else set()
    if args.method == "threshold":
        allowed = {"--what", "--store", "--threshold"}
    extra = [name for name, said in given.items() if said and name not in allowed]
    if extra:
        raise ConfigError(f"--method {args.method} does not look at {', '.join(extra)}: leave it out")
    if args.scope is not None and args.pattern != "unstructured":
        raise ConfigError(f"--scope is for single weights: with --pattern {args.pattern} leave it out")
    if args.method == "threshold" and not (args.threshold is not None and 0 <= args.threshold < math.inf):
        raise ConfigError(
            "--method threshold needs --threshold T, a number that is not negative: every weight with |w| < T goes; "
            f"got {args.threshold}"
        )


def _pattern(args: argparse.Namespace) -> Pattern:
    scope = args.scope or ("row" if args.method == "wanda" else "matrix")
    if found := re.fullmatch(r"(\d+):(\d+)", args.pattern):
        n, m = int(found[1]), int(found[2])
        if not 0 < n <= m:
            raise ConfigError(f"--pattern N:M keeps N of M: 0 < N <= M is needed, got {args.pattern}")
        return Pattern("n:m", nm=(n, m))
    if found := re.fullmatch(r"(\d+)x(\d+)", args.pattern):
        return Pattern("blocks", block=(int(found[1]), int(found[2])))
    if args.pattern not in ("unstructured", "rows", "columns", "heads"):
        raise ConfigError(
            "--pattern must be unstructured, rows, columns, heads, N:M (as 2:4) or RxC (as 32x32), got "
            f"{args.pattern!r}"
        )
    return Pattern(args.pattern, scope)


def _text(args: argparse.Namespace, origin: Source, family: str) -> Text | None:
    """The text; None only where none is given and none is needed."""
    needed = family in ("experts", "skip") or args.method in weights.NEEDS_TEXT or args.finetune
    if origin.job is None and args.text is None and not needed:
        return None
    return source.text(origin, args.text)


def _prune(
    args: argparse.Namespace, origin: Source, text: Text | None, family: str, pattern: Pattern
) -> tuple[Any, dict[str, Any], dict[str, np.ndarray], dict[str, Any]]:
    """(settings, parameters, masks, what to write down)."""
    cfg, p = origin.cfg, origin.p
    if family in ("experts", "units") and origin.masks:
        raise ConfigError(
            f"{origin.place} has pruned weights: prune whole experts or units first, and weights after, so that the "
            "masks fit what is left"
        )
    cal = None if text is None else changed.calibration(args, text)
    if family == "units":
        cut = experts.prune_units(p, cfg, sparsity=args.sparsity)
        return cut.cfg, cut.p, {}, {"units_kept": {str(i): k.shape[1] for i, k in cut.kept.items()}}
    if family == "skip":
        assert cal is not None
        with Bar("calibrating", len(cal)) as bar:
            cfg, thresholds = experts.skip(p, cfg, text=cal, watch=bar.step)
        print("thresholds: " + ", ".join(f"block {i}: {t:.3f}" for i, t in thresholds.items()))
        return cfg, p, origin.masks, {"thresholds": {str(i): t for i, t in thresholds.items()}}
    if family == "experts":
        assert cal is not None
        tries = experts.tries(cfg, args.method, args.sparsity)
        for i, n in tries.items():
            print(f"block {i}: {n:,} sets of experts to try, each with a forward of the layer on the text", flush=True)
        with Bar("calibrating", max(len(tries), 1) * len(cal) + sum(tries.values())) as bar:
            cut = experts.prune(p, cfg, method=args.method, sparsity=args.sparsity, text=cal, watch=bar.step)
        for i, ids in cut.kept.items():
            print(f"block {i} keeps the experts {', '.join(map(str, ids.tolist()))}")
        return cut.cfg, cut.p, {}, {"experts_kept": {str(i): ids.tolist() for i, ids in cut.kept.items()}}
    names = targets.names(p, args.what)
    if pattern.kind == "heads":
        names = [n for n in names if n.endswith("o_proj")]
        if not names:
            raise ConfigError("--pattern heads prunes attention heads: say --what all")
    if args.schedule != "one-shot":
        if args.method != "magnitude" or pattern.kind != "unstructured" or origin.masks:
            raise ConfigError(
                f"--schedule {args.schedule} prunes single weights by magnitude, from a model that is not pruned: say "
                "--method magnitude and leave --pattern out"
            )
        if not args.finetune:
            raise ConfigError(f"--schedule {args.schedule} changes masks while it trains: give --finetune STEPS")
        return cfg, p, dict(origin.masks), {}
    if args.method == "threshold":
        return cfg, *_threshold(args, origin, names), {"threshold": args.threshold}
    score = None
    if args.method == "movement":
        assert text is not None
        tuning = changed.tuning_settings(
            argparse.Namespace(**{**vars(args), "finetune": args.score_steps}), origin, text
        )
        with Bar("scoring", tuning.steps) as bar:
            p, score = movement.train(p, cfg, names, text.train, tuning, bar.step, origin.masks)
    rounds = weights.passes(args.method, names) * (0 if cal is None else len(cal))
    with Bar("pruning", rounds or None) as bar:
        done = weights.prune(
            p, cfg, names, method=args.method, sparsity=args.sparsity, pattern=pattern, text=cal, score=score,
            rng=generator(args.seed, _DRAW), watch=bar.step, before=origin.masks,
        )  # fmt: skip
    return cfg, done.p, done.masks, {}


def _threshold(
    args: argparse.Namespace, origin: Source, names: list[str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    flat, old = tree.flatten(origin.p), origin.masks
    found = {name: to_numpy(mask_rules.threshold(flat[name], args.threshold)) for name in names}
    masks = old | {name: mask & old[name] if name in old else mask for name, mask in found.items()}
    return masking.apply(origin.p, masks), masks


def _trained(
    args: argparse.Namespace,
    origin: Source,
    cfg: Any,
    p: dict[str, Any],
    masks: dict[str, np.ndarray],
    text: Text,
    record: dict[str, Any],
    folder: str,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Fine-tuned parameters and the masks at the end: fixed ones, or those of the schedule."""
    how = None
    if args.schedule != "one-shot":
        how = Plan(args.schedule, tuple(targets.names(p, args.what)), args.sparsity, changes=args.rounds)
    return changed.tune(args, origin, cfg, p, masks, text, record, folder, how)
