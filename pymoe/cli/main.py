"""The command line: options, and how every failure becomes one line and an exit status.

Status 0: done.  1: a check failed (a gradient is wrong).  2: bad input; one line says what is wrong and what to do.
130: stopped by Ctrl-C; what was reached is saved.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from pymoe.cli import allocator, blas_core, options, options_text
from pymoe.cli.words import say, system

INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """argparse, whose complaint is one line and which takes no abbreviated options."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**(settings | {"allow_abbrev": False}))

    def error(self, message: str) -> NoReturn:
        say(f"{message} (see `{self.prog} --help`)")
        raise SystemExit(2)


def parser() -> Parser:
    """All commands and options."""
    top = Parser(
        prog="pymoe",
        description="Sparse Mixture-of-Experts with hand-written gradients: train, sample, verify, make smaller.",
    )
    top.add_argument("--version", action="store_true", help="print the version and stop")
    commands = top.add_subparsers(dest="command", metavar="command", parser_class=Parser)

    train = commands.add_parser("train", help="train a language model on real text, after verifying its gradient")
    train.add_argument("--data", metavar="FILE", help="a UTF-8 text, plain or gzip (default: pydoc_data.topics)")
    train.add_argument("--preset", help="sizes and rates: default, shakespeare, tiny")
    train.add_argument("--out", metavar="DIR", help="the new folder of this run (default: runs/<preset>-<n>)")
    train.add_argument("--resume", metavar="RUN", help="continue a stopped run, bit for bit")
    train.add_argument("--compare-dense", action="store_true", help="train a dense model of the same active size too")
    train.add_argument("--steps", type=int, help="optimiser steps")
    train.add_argument("--batch", type=int, metavar="ROWS", help="windows a step")
    train.add_argument("--window", type=int, metavar="TOKENS", help="tokens a window, the model's context")
    train.add_argument("--micro-batches", type=int, metavar="N", help="split a step's windows into N parts")
    train.add_argument("--optimizer", choices=("adamw", "adam", "sgd"))
    train.add_argument("--lr", type=float, help="highest learning rate (its floor is a tenth)")
    train.add_argument("--seed", type=int)
    train.add_argument("--save-every", type=int, metavar="N", help="a checkpoint every N steps (default: by time only)")
    train.add_argument("--save-seconds", type=float, metavar="S", help="a checkpoint at least every S seconds (20)")
    train.add_argument("--no-verify", action="store_true", help="do not verify the gradient first")
    train.add_argument("--no-plots", action="store_true", help="draw no pictures")

    generate = commands.add_parser("generate", help="sample text from a trained model, or from a Hugging Face folder")
    generate.add_argument("run", metavar="RUN", nargs="?", help="a run folder or a checkpoint file")
    generate.add_argument("--hf", metavar="DIR", help="a Hugging Face folder: experts are read when a token asks")
    generate.add_argument("--prompt", default="\n", help="text to continue (default: a new line)")
    generate.add_argument("--tokens", type=int, default=500, help="how many to sample (500)")
    generate.add_argument("--temperature", type=float, default=0.8, help="0 takes the most likely token (0.8)")
    generate.add_argument("--top-k", type=int, help="only the K most likely tokens")
    generate.add_argument("--top-p", type=float, help="only the most likely tokens that together have probability P")
    generate.add_argument("--seed", type=int, default=0)

    verify = commands.add_parser("verify", help="check the gradient of a trained checkpoint, or mutate the source")
    verify.add_argument("run", metavar="RUN", nargs="?", help="a run folder or a checkpoint file")
    verify.add_argument("--directions", type=int, default=2, help="random directions for each tensor (2)")
    verify.add_argument("--seed", type=int, default=0)
    verify.add_argument("--mutate", action="store_true", help="break the source line by line; the tests must see it")

    for name, (add, about) in (options.COMMANDS | options_text.COMMANDS).items():
        add(commands.add_parser(name, help=about))

    presets = commands.add_parser("presets", help="list the routing rules that have a name, with their sources")
    presets.add_argument("find", metavar="TEXT", nargs="?", help="only those with this in their name or description")
    explain = commands.add_parser("explain", help="print a routing rule: formulas, gradient, an example in numbers")
    explain.add_argument("name", metavar="NAME", help="one of `pymoe presets`, e.g. deepseek_v3")
    explain.add_argument("--seed", type=int, default=0, help="of the numbers of the example")

    commands.add_parser("info", help="versions, kernels, BLAS, threads, GPU, and what would make it faster")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    blas_core.choose()  # before anything imports NumPy
    allocator.keep()
    top = parser()
    args, unknown = top.parse_known_args(argv)
    if hasattr(args, "files") and all(u == "-" or not u.startswith("-") for u in unknown):
        args.files, unknown = [*args.files, *unknown], []  # argparse fills "*" once: files after an option come back
    if unknown:
        command = f"pymoe {args.command}" if args.command else "pymoe"
        say(f"unknown option or argument: {' '.join(unknown)} (see `{command} --help`)")
        return 2
    try:
        return _run(args, top)
    except KeyboardInterrupt:
        print("pymoe: stopped", file=sys.stderr)
        return INTERRUPTED


def _run(args: argparse.Namespace, top: Parser) -> int:
    from pymoe import __version__
    from pymoe.backend.errors import GradientError, PymoeError

    try:
        status = 0
        if args.version:
            print(f"pymoe {__version__}")
        elif args.command is None:
            top.print_help()
        else:
            status = importlib.import_module(f"pymoe.cli.{args.command}").run(args)
        sys.stdout.flush()
        return status
    except GradientError as error:
        say(str(error))
        return 1
    except PymoeError as error:
        say(str(error))
    except BrokenPipeError:  # `pymoe generate ... | head`: the reader has enough
        _silence()
        return 141
    except OSError as error:
        say(system(error))
        _silence()
    except MemoryError:
        smaller = "fewer --windows" if args.command in options.COMMANDS else "a smaller --batch or --window"
        smaller = "a smaller model or batch" if args.command in options_text.COMMANDS else smaller
        say(f"not enough memory: use {smaller}, or a shorter text")
    return 2


def _silence() -> None:
    """If stdout itself is what failed, Python must not try it again on its way out."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
