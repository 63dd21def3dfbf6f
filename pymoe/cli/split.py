"""``pymoe split``: a sparse model made of a dense one, beside it."""

from __future__ import annotations

import argparse
from typing import Any

from pymoe.backend.errors import ConfigError
from pymoe.backend.rng import generator
from pymoe.cli import changed
from pymoe.cli.bar import Bar
from pymoe.surgery import source
from pymoe.surgery import split as surgery
from pymoe.train import size

_DRAW = 7  # the key of this use of the generator


def run(args: argparse.Namespace) -> int:
    if args.experts < 1 or not 1 <= args.k <= args.experts:
        raise ConfigError(f"--experts must be at least 1 and --k from 1 to it, got {args.experts} and {args.k}")
    origin = changed.opened(args, args.source)
    source.unpruned(origin, "split")
    needs = args.finetune or (args.how == "partition" and args.grouping in ("coactivation", "gradient"))
    text = None if origin.job is None and args.text is None and not needs else source.text(origin, args.text)
    with changed.place(args.source, f"{args.how}-{args.experts}x{args.k}", args.out) as folder:
        before = None if text is None else changed.held_out(origin.cfg, origin.p, text)
        cal = None if text is None else changed.calibration(args, text)
        with Bar("splitting", origin.cfg.n_layers) as bar:
            made = surgery.experts(
                origin.p, origin.cfg, how=args.how, n_experts=args.experts, k=args.k, grouping=args.grouping,
                pieces=args.pieces, ratio=args.ratio, rng=generator(args.seed, _DRAW), text=cal, watch=bar.step,
            )  # fmt: skip
        source.writable(origin, made.cfg)
        print(f"  {size.describe(made.cfg)}")
        record: dict[str, Any] = {
            "command": "split", "how": args.how, "experts": args.experts, "k": args.k, "grouping": args.grouping,
            "pieces": args.pieces, "ratio": args.ratio, "seed": args.seed,
        }  # fmt: skip
        after = None if text is None else changed.held_out(made.cfg, made.p, text)
        record |= changed.table((origin.cfg, origin.p, {}, before), (made.cfg, made.p, {}, after))
        p = made.p
        if args.finetune:
            assert text is not None
            p, _ = changed.tune(args, origin, made.cfg, p, {}, text, record, folder.folder)
            record["tuned"] = changed.held_out(made.cfg, p, text)
            print(f"after {args.finetune} steps of training: held-out loss {record['tuned']:.4f}")
        if not (args.finetune and origin.job is not None):
            source.write(origin, folder.folder, made.cfg, p, {}, record)
        changed.record_file(folder.folder, "split.json", record)
        changed.next_lines(folder.folder, origin)
    return 0
