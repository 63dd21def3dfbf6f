"""``pymoe explain NAME``: a routing rule with its formulas, its gradient and an example in numbers."""

from __future__ import annotations

import argparse

from pymoe.verify import explain


def run(args: argparse.Namespace) -> int:
    print(explain.page(args.name, seed=args.seed))
    return 0
