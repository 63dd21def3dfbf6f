"""The options of the commands that take text and predict: translate, ...  Imports no NumPy (``blas_core``)."""

from __future__ import annotations

import argparse


def add_translate(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a translator: `pymoe translate train SRC TGT` (two files line by line, or one of two columns; without "
        "files: names and dates).  Translate with it: `pymoe translate MODEL [FILE]`, from standard input without FILE."
    )
    parser.add_argument("model", metavar="train | MODEL", help="the word train, or the folder of a trained translator")
    parser.add_argument("files", metavar="FILE", nargs="*", help="to train on: SRC TGT, or one tsv; or to translate")

    train = parser.add_argument_group("training")
    train.add_argument("--valid", metavar="FILE", nargs="+", help="held-out pairs (default: a part of the training's)")
    train.add_argument(
        "--test", metavar="FILE", nargs="+", help="pairs to score at the end (default: the held-out ones)"
    )
    train.add_argument("--pair", metavar="L-L", help="without files: the two languages, locales of Babel (en-de)")
    train.add_argument("--preset", help="sizes and rates: default, names, tiny (default; names without files)")
    train.add_argument("--out", metavar="DIR", help="the new folder of this model (default: runs/translate-<n>)")
    train.add_argument("--resume", metavar="RUN", help="continue a stopped training, bit for bit")
    train.add_argument("--steps", type=int, help="optimiser steps (default: some epochs)")
    train.add_argument(
        "--minutes", type=float, metavar="M", help="as many steps as fit into M minutes, timed at the start"
    )
    train.add_argument(
        "--compare-dense",
        action=argparse.BooleanOptionalAction,
        help="train a dense model of the same active size too, for as many steps (it does unless told not to)",
    )
    train.add_argument("--vocabulary", type=int, metavar="V", help="tokens of the byte-level BPE of both languages")
    train.add_argument("--width", type=int, metavar="D", help="of the model, d_model")
    train.add_argument("--layers", type=int, metavar="L", help="of the encoder, and of the decoder")
    train.add_argument("--expert-width", type=int, metavar="F", help="hidden units of an expert")
    train.add_argument("--experts", type=int, metavar="E", help="of a layer")
    train.add_argument("--k", type=int, help="experts that a token passes")
    train.add_argument("--dropout", type=float)
    train.add_argument("--label-smoothing", type=float)
    train.add_argument(
        "--context", type=int, metavar="N", help="longest sentence, in tokens; longer pairs are left out"
    )
    train.add_argument("--batch-tokens", type=int, metavar="N", help="of a step, source and target together")
    train.add_argument("--lr", type=float, help="highest learning rate")
    train.add_argument("--seed", type=int)
    train.add_argument("--save-every", type=int, metavar="N", help="a checkpoint every N steps (default: by time only)")
    train.add_argument("--save-seconds", type=float, metavar="S", help="a checkpoint at least every S seconds (20)")
    train.add_argument("--no-verify", action="store_true", help="do not verify the gradient first")
    train.add_argument("--no-plots", action="store_true", help="draw no picture")

    translate = parser.add_argument_group("translating")
    translate.add_argument(
        "--reference", metavar="FILE", help="the right translations: print BLEU and chrF (sacrebleu)"
    )

    both = parser.add_argument_group("both")
    both.add_argument("--beam", type=int, metavar="B", help="width of the beam search (5; 1 is greedy)")
    both.add_argument("--alpha", type=float, metavar="A", help="its length normalisation: 0 none, favours short (0.6)")


COMMANDS = {
    "translate": (add_translate, "train a translator on pairs of sentences, and translate with it"),
}
