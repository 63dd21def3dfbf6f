"""``pymoe classify``: train a classifier of texts, predict with it, report on it."""

from __future__ import annotations

import argparse
import importlib


def run(args: argparse.Namespace) -> int:
    status: int = importlib.import_module(f"pymoe.cli.classify_{args.action}").run(args)
    return status
