"""Multi30K, English to German: a sparse encoder-decoder and its dense twin.  ``python benchmarks/translation.py``

    PYMOE_DATA=... python benchmarks/translation.py --minutes 25 --out translation

trains the sparse model for so many minutes (the steps that fit in are timed at the start) and the dense model of the
same active size for as many steps, on the 29,000 pairs of the training set; prints BLEU, chrF and exact matches of both
on the 1,000 sentences of test 2016 (beam search, sacrebleu), and draws the learning curve, ``learning.png``, of 1,014
validation pairs.  --out is a model folder: ``pymoe translate OUT`` reads it, and ``pymoe translate train --resume OUT``
continues a run that was stopped.  Other options go to ``pymoe translate train`` as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys


def files(folder: str, name: str) -> list[str]:
    """The English and the German file of a part."""
    return [os.path.join(folder, "multi30k", f"{name}.{language}.gz") for language in ("en", "de")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0, help="of training, for the sparse model (25)")
    parser.add_argument("--out", default="translation", help="the new folder (translation)")
    args, others = parser.parse_known_args()
    data = os.environ.get("PYMOE_DATA")
    if not data or not os.path.isdir(os.path.join(data, "multi30k")):
        print("set PYMOE_DATA to the folder that has multi30k/ (train, val, test_2016_flickr; .en.gz and .de.gz)")
        return 2
    from pymoe.cli.main import main as pymoe

    command = ["translate", "train", *files(data, "train"), "--valid", *files(data, "val")]
    command += ["--test", *files(data, "test_2016_flickr"), "--out", args.out]
    if "--steps" not in others:
        command += ["--minutes", str(args.minutes)]
    status = pymoe([*command, *others])
    if status:
        return status
    with open(os.path.join(args.out, "result.json"), encoding="utf-8") as file:
        result = json.load(file)
    print("\n| model | parameters | active | steps | training | held-out loss | BLEU, test 2016 | chrF |")
    print("|---|---|---|---|---|---|---|---|")
    for label in ("sparse", "dense"):
        if label not in result:  # --no-compare-dense
            continue
        r = result[label]
        test = r["tests"]["test"]
        print(
            f"| {label} | {r['parameters']:,} | {r['active_parameters']:,} | {r['steps']:,} | "
            f"{r.get('seconds', float('nan')) / 60:.1f} min | {r['held_out']:.3f} | {test['bleu']:.2f} | "
            f"{test['chrf']:.2f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
