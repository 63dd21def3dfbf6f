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
    both.add_argument("--beta", type=float, metavar="B", help="its coverage penalty: 0 none, more leaves less out (0)")


def _table(parser: argparse.ArgumentParser, *, label: bool) -> None:
    parser.add_argument("--text", metavar="COL", help="the column of the text: its name, or its number from 1")
    if label:
        parser.add_argument("--label", metavar="COL", help="the column of the labels")
    parser.add_argument("--group", metavar="COL", help="the column of groups, such as domains")
    parser.add_argument("--format", metavar="F", help="csv, tsv, jsonl, lines (default: by the ending, or by looking)")
    parser.add_argument("--encoding", default="utf-8", help="of the file: utf-8, latin-1, gb18030, utf-16, ... (utf-8)")
    parser.add_argument(
        "--header", action=argparse.BooleanOptionalAction, help="whether the first row of csv and tsv names the columns"
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out rows that cannot be used, and count them")
    parser.add_argument(
        "--longest", type=int, default=100_000, metavar="N", help="characters of the longest field (100,000)"
    )


def add_classify(parser: argparse.ArgumentParser) -> None:
    parser.description = "Train a classifier of texts on a csv, tsv or jsonl file, look at it, and use it."
    actions = parser.add_subparsers(dest="action", metavar="train | predict | report", required=True)

    train = actions.add_parser("train", help="learn from a table of texts and labels, and score on held-out rows")
    train.description = "Learn from FILE (csv, tsv, jsonl; gzip too; - is standard input; without FILE: --data)."
    train.add_argument("files", metavar="FILE", nargs="*", help="the table; its columns are guessed, or named here")
    _table(train, label=True)
    train.add_argument("--data", help="without FILE: languages, docstrings, sentiment (languages)")
    train.add_argument("--method", default="moe", help="moe, ensemble, dense (moe)")
    train.add_argument("--experts", type=int, metavar="E", help="how many (the estimator's default)")
    train.add_argument("--k", type=int, help="experts for a text")
    train.add_argument("--subsets", help="ensemble: random, label, cluster, group (group with --group, else cluster)")
    train.add_argument("--integration", help="ensemble: average, validation, gradient, distance, stacking, gate, ...")
    train.add_argument("--test", metavar="FILE", help="score on this table, and learn from all of FILE")
    train.add_argument("--test-share", type=float, metavar="S", help="of each class, held out to score on (0.2)")
    train.add_argument("--tokens", help="auto, words, chinese, characters, bytes, bpe (auto)")
    train.add_argument("--stop-words", metavar="L,L", help="leave out the stop words of these languages, such as en,zh")
    train.add_argument("--max-features", type=int, metavar="N", help="n-grams that are kept (all)")
    train.add_argument("--out", metavar="DIR", help="the new folder of the model (default: runs/classify-<n>)")
    train.add_argument("--seed", type=int, default=0, help="of everything that is drawn (0)")

    predict = actions.add_parser("predict", help="labels for new texts, from a file or standard input")
    predict.description = (
        "Labels for the texts in FILE, or line by line from standard input: label, probability, and the text."
    )
    predict.add_argument("model", metavar="MODEL", help="the folder of a trained classifier")
    predict.add_argument("files", metavar="FILE", nargs="*", help="a table with a column of texts, or plain lines")
    _table(predict, label=False)
    predict.add_argument("--route", action="store_true", help="also which experts answered, with which weight")
    predict.add_argument("--all", action="store_true", help="also the probability of every class")
    predict.add_argument("--no-text", action="store_true", help="do not repeat the text")
    predict.add_argument("--to", default="tsv", metavar="F", help="tsv, csv, jsonl (tsv)")
    predict.add_argument("--out", metavar="FILE", help="a new file, in place of standard output")

    report = actions.add_parser("report", help="how good it is, on which classes, by which expert; HTML and PNG")
    report.description = "Accuracy, F1, confusion matrix, experts, errors, on FILE or on what training held out."
    report.add_argument("model", metavar="MODEL", help="the folder of a trained classifier")
    report.add_argument("files", metavar="FILE", nargs="*", help="a table of texts and labels (default: held-out rows)")
    _table(report, label=True)
    report.add_argument("--errors", type=int, default=20, metavar="N", help="errors that are shown (20)")
    report.add_argument("--out", metavar="DIR", help="a new folder for report.html and the pictures (MODEL/report)")
    report.add_argument("--no-plots", action="store_true", help="draw no pictures")


COMMANDS = {
    "classify": (add_classify, "train a classifier of texts on your own table, and predict with it"),
    "translate": (add_translate, "train a translator on pairs of sentences, and translate with it"),
}
