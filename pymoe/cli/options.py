"""The options of the commands that change a model: prune, split, merge, compress.  Imports no NumPy (``blas_core``)."""

from __future__ import annotations

import argparse


def _common(parser: argparse.ArgumentParser, *, text: str) -> None:
    parser.add_argument("--text", metavar="FILE", help=f"calibration text, UTF-8, plain or gzip ({text})")
    parser.add_argument("--windows", type=int, default=64, metavar="N", help="windows of it to calibrate on (64)")
    parser.add_argument(
        "--out", metavar="DIR", help="the new folder (default: beside the old one, named by the method)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (0)")


def _tuning(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--finetune", type=int, default=default, metavar="STEPS", help=f"train on for so many steps ({default})"
    )
    parser.add_argument("--lr", type=float, help="highest learning rate of fine-tuning (a quarter of the run's)")


def prune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="MODEL", help="a run folder, a checkpoint, or a Hugging Face folder")
    parser.add_argument(
        "--method",
        default="wanda",
        help="weights: random, magnitude, threshold, snip, taylor, movement, wanda, sparsegpt, obs; experts: "
        "frequency, weighted-frequency, ean-sum, ean-mean, reap, naee, naee-greedy; units (hidden units); skip (wanda)",
    )
    parser.add_argument("--sparsity", type=float, default=0.5, metavar="S", help="the share that goes (0.5)")
    parser.add_argument("--threshold", type=float, metavar="T", help="with --method threshold: |w| < T goes")
    parser.add_argument(
        "--pattern",
        default="unstructured",
        help="of weights: unstructured, rows, columns, heads, N:M as 2:4, RxC blocks as 32x32 (unstructured)",
    )
    parser.add_argument(
        "--scope", help="who competes with whom: row, matrix, tensor, model (row for wanda, else matrix)"
    )
    parser.add_argument("--what", default="experts", help="which matrices: experts, feed-forward, all (experts)")
    parser.add_argument(
        "--schedule",
        default="one-shot",
        help="over --finetune steps: one-shot, gradual (cubic), lottery (rewinding), rigl (drop and grow) (one-shot)",
    )
    parser.add_argument("--rounds", type=int, default=4, help="changes of the mask in a schedule (4)")
    parser.add_argument("--score-steps", type=int, default=100, metavar="N", help="movement: steps to score over (100)")
    parser.add_argument(
        "--store", default="dense", help="how pruned experts lie in a run's checkpoint: dense, csr, bsr, nm (dense)"
    )
    _tuning(parser, 0)
    _common(parser, text="default: the text of the run")


def split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="MODEL", help="a dense model: a run folder or a Hugging Face folder")
    parser.add_argument("--how", default="copy", help="copy, partition, granular, drop (copy)")
    parser.add_argument("--experts", type=int, default=8, metavar="E", help="experts of every layer (8)")
    parser.add_argument("--k", type=int, default=2, help="experts that a token passes (2)")
    parser.add_argument("--grouping", default="clustered", help="partition: random, clustered, coactivation, gradient")
    parser.add_argument("--pieces", type=int, default=2, help="granular: pieces of one feed-forward (2)")
    parser.add_argument("--ratio", type=float, default=0.5, help="drop: share of hidden units drawn anew (0.5)")
    _tuning(parser, 0)
    _common(parser, text="default: the text of the run")


def merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", metavar="MODEL", nargs="+", help="one model: its experts; several: the models")
    parser.add_argument(
        "--how",
        default="m-smoe",
        help="one model: m-smoe, hc-smoe, to-dense; several: uniform, soup, arithmetic, ties, dare, dare-ties, slerp, "
        "multislerp, btx (m-smoe)",
    )
    parser.add_argument("--groups", type=int, metavar="G", help="experts that stay in every layer (half of them)")
    parser.add_argument(
        "--groups-in-all",
        type=int,
        metavar="G",
        help="experts that stay in all layers together, shared out by their use",
    )
    parser.add_argument(
        "--average", default="frequency", help="uniform, frequency, fisher, regmean, ties, zipit (frequency)"
    )
    parser.add_argument("--no-align", action="store_true", help="do not permute hidden units to match first")
    parser.add_argument(
        "--base", metavar="MODEL", help="arithmetic, ties, dare, dare-ties: what the models were tuned from"
    )
    parser.add_argument("--density", type=float, default=0.2, help="ties, dare: share of each difference kept (0.2)")
    parser.add_argument("--scale", type=float, default=1.0, help="arithmetic, ties, dare: of the summed difference (1)")
    parser.add_argument("--t", type=float, default=0.5, help="slerp: how far from the first to the second (0.5)")
    parser.add_argument("--k", type=int, default=2, help="btx: experts that a token passes (2)")
    _tuning(parser, 0)
    _common(parser, text="default: the text of the run")


def compress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="MODEL", help="a run folder, a checkpoint, or a Hugging Face folder")
    parser.add_argument("--report", action="store_true", help="draw the picture too (needs matplotlib)")
    parser.add_argument("--levels", default="0.5,0.75", metavar="S,S", help="the shares that go (0.5,0.75)")
    parser.add_argument(
        "--weights", default="random,magnitude,wanda,sparsegpt", metavar="M,M", help="methods for single weights"
    )
    parser.add_argument("--experts", default="frequency,reap", metavar="M,M", help="methods for whole experts")
    _tuning(parser, 0)
    _common(parser, text="default: the text of the run")


COMMANDS = {
    "prune": (prune, "make a model sparse: weights, blocks, hidden units or whole experts"),
    "split": (split, "make experts of a dense model"),
    "merge": (merge, "make fewer experts of many, one dense layer of experts, or one model of several"),
    "compress": (compress, "try the ways to make a model smaller and lay them side by side"),
}
