"""``pymoe prune``: a sparse model beside the dense one."""

from __future__ import annotations

import argparse
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
from pymoe.train.plan import Plan

_DRAW = 6  # the key of this use of the generator


def run(args: argparse.Namespace) -> int:
    family = _family(args.method)
    pattern = _pattern(args) if family == "weights" else Pattern()
    if not 0 <= args.sparsity <= 1:
        raise ConfigError(f"--sparsity is the share that goes and must lie in [0, 1], got {args.sparsity}")
    origin = changed.opened(args, args.source)
    text = _text(args, origin, family)
    suffix = f"{args.method}-{args.sparsity:g}" if args.method not in ("skip", "threshold") else args.method
    with changed.place(args.source, suffix, args.out) as folder:
        before = None if text is None else changed.held_out(origin.cfg, origin.p, text)
        cfg, p, masks, done = _prune(args, origin, text, family, pattern)
        record: dict[str, Any] = {
            "command": "prune", "method": args.method, "sparsity": args.sparsity, "pattern": str(pattern),
            "what": args.what, "schedule": args.schedule, "seed": args.seed, **done,
        }  # fmt: skip
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
    if family != "weights" and origin.masks:
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
        return cfg, p, {}, {"thresholds": {str(i): t for i, t in thresholds.items()}}
    if family == "experts":
        assert cal is not None
        with Bar("calibrating") as bar:
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
        return cfg, *_threshold(args, p, names), {"threshold": args.threshold}
    score = None
    if args.method == "movement":
        assert text is not None
        tuning = changed.tuning_settings(
            argparse.Namespace(**{**vars(args), "finetune": args.score_steps}), origin, text
        )
        with Bar("scoring", tuning.steps) as bar:
            p, score = movement.train(p, cfg, names, text.train, tuning, bar.step)
    with Bar("pruning") as bar:
        done = weights.prune(
            p, cfg, names, method=args.method, sparsity=args.sparsity, pattern=pattern, text=cal, score=score,
            rng=generator(args.seed, _DRAW), watch=bar.step,
        )  # fmt: skip
    return cfg, done.p, _joined(origin.masks, done.masks), {}


def _joined(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What was pruned before stays pruned."""
    return old | {name: mask & old[name] if name in old else mask for name, mask in new.items()}


def _threshold(
    args: argparse.Namespace, p: dict[str, Any], names: list[str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if args.threshold is None:
        raise ConfigError("--method threshold needs --threshold T: every weight with |w| < T goes")
    flat = tree.flatten(p)
    masks = {name: to_numpy(mask_rules.threshold(flat[name], args.threshold)) for name in names}
    pruned = {name: np.where(masks[name], to_numpy(flat[name]), flat[name].dtype.type(0)) for name in names}
    return tree.unflatten(flat | pruned), masks


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
