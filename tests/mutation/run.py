"""Break the source one step at a time; exit status 1 if a mutant survives that is not on the accepted list.

python tests/mutation/run.py [ops] [kernels] [moe] [sparsity] [--jobs 2] [--every 1] [--only softmax]
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pymoe.verify import mutate  # noqa: E402
from tests.mutation.accepted import ACCEPTED  # noqa: E402
from tests.mutation.targets import GROUPS  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", default=list(GROUPS), help="ops, kernels, moe, sparsity (default: all)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--every", type=int, default=1, help="only one mutant in n")
    parser.add_argument("--only", default="", help="only modules whose name contains this")
    options = parser.parse_args()
    targets = [t for g in options.groups for t in GROUPS[g](options.every) if options.only in t.module]
    result = mutate.run(targets, options.jobs, ACCEPTED)
    print(result.table())
    for v in result.survivors:
        print(f"survived  {v.module.replace('.', '/')}.py:{v.line}  {v.kind}  {v.key!r}")
    stale = result.stale if options.every == 1 else []
    for key in stale:
        print(f"no longer survives, take it off the accepted list: {key!r}")
    return 1 if result.survivors or stale else 0


if __name__ == "__main__":
    sys.exit(main())
