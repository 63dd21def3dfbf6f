"""``pymoe merge``: fewer experts, one dense feed-forward, or one model of several, beside what it was made of."""

from __future__ import annotations

import argparse
from typing import Any

from pymoe.backend.errors import ConfigError
from pymoe.backend.rng import generator
from pymoe.cli import changed
from pymoe.cli.bar import Bar
from pymoe.sharing import fuse
from pymoe.surgery import experts as layers
from pymoe.surgery import merge as surgery
from pymoe.surgery import source
from pymoe.surgery.merge import Merged
from pymoe.surgery.source import Source, Text
from pymoe.train import size

_DRAW = 8  # the key of this use of the generator
INSIDE = (*surgery.GROUPINGS, "to-dense")
ACROSS = (*surgery.MODELS, "soup")


def run(args: argparse.Namespace) -> int:
    if args.how not in (*INSIDE, *ACROSS):
        raise ConfigError(f"--how must be one of {', '.join((*INSIDE, *ACROSS))}, got {args.how!r}")
    if (len(args.sources) > 1) != (args.how in ACROSS):
        kinds = f"{', '.join(INSIDE)} take one model, {', '.join(ACROSS)} several"
        raise ConfigError(f"--how {args.how} does not fit {len(args.sources)} model(s): {kinds}")
    said = [o for o, v in (("--groups", args.groups), ("--groups-in-all", args.groups_in_all)) if v is not None]
    if said and (args.how not in surgery.GROUPINGS or len(said) > 1):
        which = "one" if len(said) > 1 else "it"
        raise ConfigError(f"--how {args.how} does not take {' and '.join(said)}: leave {which} out")
    origins = [changed.opened(args, place) for place in args.sources]
    first = origins[0]
    base = None
    if args.base is not None:
        if args.how not in surgery.DIFFERENCES:
            raise ConfigError(f"--how {args.how} does not look at --base: leave it out")
        base = changed.opened(args, args.base)
    for other in (*origins[1:], *([] if base is None else [base])):
        source.same_kind(first, other)
    for origin in origins:
        source.unpruned(origin, "merge")
    needs = args.how in surgery.GROUPINGS or args.how == "soup" or args.finetune
    text = None if first.job is None and args.text is None and not needs else source.text(first, args.text)
    chooses = text
    if args.how == "soup" and text is not None:  # what was chosen by a text says nothing on that text
        half = len(text.held_out) // 2
        chooses, text = (text._replace(held_out=part) for part in (text.held_out[:half], text.held_out[half:]))
        print("the first half of the held-out text chooses, the second half is judged by")
    with changed.place(first.place, args.how, args.out) as folder:
        before = None if text is None else changed.held_out(first.cfg, first.p, text)
        merged = _inside(args, first, text) if args.how in INSIDE else _across(args, origins, base, chooses)
        cfg, p = source.said(first, merged.cfg, merged.p)
        source.writable(first, cfg)
        if cfg != merged.cfg:
            print(
                "a Hugging Face folder cannot tie experts: it holds the merged one once for each of its ids, and is no "
                "smaller; a run is"
            )
        print(f"  {size.describe(cfg)}")
        record: dict[str, Any] = {
            "command": "merge", "how": args.how, "average": args.average, "align": not args.no_align,
            "sources": args.sources, "seed": args.seed, "groups": {str(i): g for i, g in merged.groups.items()},
        }  # fmt: skip
        after = None if text is None else changed.held_out(cfg, p, text)
        record |= changed.table((first.cfg, first.p, {}, before), (cfg, p, {}, after))
        if args.finetune:
            assert text is not None
            p, _ = changed.tune(args, first, cfg, p, {}, text, record, folder.folder)
            record["tuned"] = changed.held_out(cfg, p, text)
            print(f"after {args.finetune} steps of training: held-out loss {record['tuned']:.4f}")
        if not (args.finetune and first.job is not None):
            source.write(first, folder.folder, cfg, p, {}, record)
        changed.record_file(folder.folder, "merge.json", record)
        changed.next_lines(folder.folder, first)
    return 0


def _inside(args: argparse.Namespace, origin: Source, text: Text | None) -> Merged:
    cal = None if text is None else changed.calibration(args, text)
    with Bar("merging") as bar:
        if args.how == "to-dense":
            return surgery.to_dense(origin.p, origin.cfg, text=cal, watch=bar.step)
        assert cal is not None
        each = [m.n_stored for m in layers.moe_layers(origin.cfg).values()]
        groups = args.groups
        if groups is None and args.groups_in_all is None:
            groups = max(1, min(each) // 2)
        merged = surgery.experts(
            origin.p, origin.cfg, grouping=args.how, n_groups=groups, in_all=args.groups_in_all, text=cal,
            how=args.average, align=not args.no_align, watch=bar.step,
        )  # fmt: skip
    for i, groups_of in merged.groups.items():
        sets = [[e for e, g in enumerate(groups_of) if g == h] for h in range(max(groups_of) + 1)]
        print(f"block {i}: {'  '.join('{' + ' '.join(map(str, s)) + '}' for s in sets)}")
    return merged


def _across(args: argparse.Namespace, origins: list[Source], base: Source | None, text: Text | None) -> Merged:
    trees, cfg = [origin.p for origin in origins], origins[0].cfg
    if args.how == "soup":
        assert text is not None
        with Bar("souping", len(trees)) as bar:

            def judge(p: dict[str, Any]) -> float:
                bar.step()
                return -changed.held_out(cfg, p, text)

            chosen = fuse.soup.greedy(trees, judge)
        print(f"in the soup: {', '.join(origins[i].place for i in chosen.kept)}")
        return Merged(chosen.p, cfg, {})
    with Bar("merging") as bar:
        bar.step()
        return surgery.models(
            trees, cfg, how=args.how, rng=generator(args.seed, _DRAW), k=args.k, base=None if base is None else base.p,
            density=args.density, scale=args.scale, t=args.t,
        )  # fmt: skip
