"""A report as one HTML file: nothing is fetched, nothing runs, and every text and label stays text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from pymoe.pipeline.report.measure import Report

MOST = 60  # classes of a matrix
_STYLE = """
body { font: 15px/1.5 system-ui, "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif;
  color: #1a1a1a; max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2.4rem 0 .5rem; }
p { margin: .3rem 0; } .quiet { color: #666; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4; vertical-align: top; }
th { font-weight: 600; border-bottom: 1px solid #999; } th[scope=row] { border-bottom: 1px solid #e4e4e4; }
th:first-child, td.text, th.text { text-align: left; } tr.first td, tr.first th { font-weight: 600; }
td.text { overflow-wrap: anywhere; white-space: pre-wrap; min-width: 20rem; }
td.cell { min-width: 2.4rem; border: 1px solid #fff; text-align: center; } table.matrix th { border-bottom: 0; }
table.matrix thead th { text-align: center; vertical-align: bottom; }
"""


def page(report: Report, legend: Sequence[str] = ()) -> str:
    """The file; ``legend``: what the numbers in the pictures stand for."""
    return "\n".join(_page(report, legend)) + "\n"


def _page(report: Report, legend: Sequence[str]) -> Iterator[str]:
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>{escape(report.title)}</h1>"
    yield f'<p class="quiet">{report.texts:,} texts, {escape(report.where)}</p>'
    for note in report.notes:
        yield f"<p>{escape(note)}</p>"
    yield "<h2>Scores</h2>"
    scores = [[name, f"{s.accuracy:.4f}", f"{s.macro_f1:.4f}"] for name, s in report.scores.items()]
    yield from _table(["", "accuracy", "macro-F1"], scores, first=True)
    yield "<h2>Classes</h2>"
    rows = [[c.label, f"{c.precision:.3f}", f"{c.recall:.3f}", f"{c.f1:.3f}", f"{c.texts:,}"] for c in report.per_class]
    yield from _table(["class", "precision", "recall", "F1", "texts"], rows)
    if report.groups:
        yield "<h2>Groups</h2>"
        of = [[name, f"{s.accuracy:.4f}", f"{s.macro_f1:.4f}", f"{n:,}"] for name, n, s in report.groups]
        yield from _table(["group", "accuracy", "macro-F1", "texts"], of)
    yield from _confusion(report)
    yield from _experts(report)
    yield from _errors(report)
    if legend:
        yield "<h2>Numbers in the pictures</h2>"
        yield "".join(f"<p>{escape(line)}</p>" for line in legend)
    yield "</body></html>"


def _confusion(report: Report) -> Iterator[str]:
    yield "<h2>Which class was taken for which</h2>"
    kept = sorted(range(len(report.classes)), key=lambda i: (-report.per_class[i].texts, i))[:MOST]
    kept.sort()
    less = f" The {MOST} largest of {len(report.classes)} classes." if len(kept) < len(report.classes) else ""
    yield f'<p class="quiet">Rows: the truth. Columns: the answer. Shade: share of the row.{less}</p>'
    names = [report.classes[i] for i in kept]
    cells = []
    for i in kept:
        total = max(int(report.confusion[i].sum()), 1)
        cells.append([(f"{n:,}" if n else "", n / total) for n in (int(report.confusion[i, j]) for j in kept)])
    yield from _matrix("truth \\ answer", names, names, cells)


def _experts(report: Report) -> Iterator[str]:
    if not report.experts:
        return
    yield "<h2>Experts</h2>"
    yield '<p class="quiet">An expert leads a text when its weight there is the largest.</p>'
    rows = []
    for e in report.experts:
        accuracy = "" if e.accuracy is None else f"{e.accuracy:.3f}"
        classes = ", ".join(f"{label} {n:,}" for label, n in e.classes[:6]) + (", …" if e.classes[6:] else "")
        rows.append([e.name, f"{e.weight:.3f}", f"{e.leads:,}", accuracy, classes])
    head = ["expert", "mean weight", "leads", "accuracy", "classes of the texts that it leads"]
    yield from _table(head, rows, text=(4,))
    yield '<p class="quiet">Mean weight of each expert (column) on the texts of each class (row), in %.</p>'
    top = max(float(report.by_class.max()), 1e-9)
    kept = sorted(range(len(report.classes)), key=lambda i: (-report.per_class[i].texts, i))[:MOST]
    kept.sort()
    share = [[(f"{100 * w:.0f}", w / top) for w in report.by_class[:, c].tolist()] for c in kept]
    names = [report.classes[c] for c in kept]
    yield from _matrix("class \\ expert", names, [e.name for e in report.experts], share)


def _errors(report: Report) -> Iterator[str]:
    if not report.confused:
        return
    yield "<h2>Errors</h2>"
    yield '<p class="quiet">The most frequent confusions first; of each the answers that were surest.</p>'
    rows = []
    for pair in report.confused:
        for line, p, text in pair.examples:
            rows.append([pair.truth, pair.predicted, f"{pair.times:,}", f"{p:.2f}", f"{line:,}", text[:2000]])
    yield from _table(["truth", "answer", "times", "probability", "line", "text"], rows, text=(1, 5))


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, text: tuple[int, ...] = (), first: bool = False
) -> Iterator[str]:
    def kind(i: int) -> str:
        return ' class="text"' if i in text else ""

    yield '<div class="wide"><table><thead><tr>'
    yield "".join(f"<th{kind(i)}>{escape(cell)}</th>" for i, cell in enumerate(head)) + "</tr></thead><tbody>"
    for n, row in enumerate(rows):
        cells = "".join(f"<td{kind(i + 1)}>{escape(cell)}</td>" for i, cell in enumerate(row[1:]))
        begin = '<tr class="first">' if first and n == 0 else "<tr>"
        yield f'{begin}<th scope="row">{escape(row[0])}</th>{cells}</tr>'
    yield "</tbody></table></div>"


def _matrix(
    corner: str, down: Sequence[str], across: Sequence[str], cells: Sequence[Sequence[tuple[str, float]]]
) -> Iterator[str]:
    """A table whose cells are shaded by their second part, 0 to 1."""
    yield '<div class="wide"><table class="matrix"><thead><tr>'
    yield f"<th>{escape(corner)}</th>" + "".join(f"<th>{escape(name)}</th>" for name in across)
    yield "</tr></thead><tbody>"
    for name, row in zip(down, cells, strict=True):
        parts = "".join(f'<td class="cell" style="{_shade(share)}">{escape(text)}</td>' for text, share in row)
        yield f'<tr><th scope="row">{escape(name)}</th>{parts}</tr>'
    yield "</tbody></table></div>"


def _shade(share: float) -> str:
    """White to dark blue, with ink that can be read on it.

    >>> _shade(0.0), _shade(1.0)
    ('background:rgb(247,249,252);color:#1a1a1a', 'background:rgb(0,74,124);color:#fff')
    """
    low, high = (247, 249, 252), (0, 74, 124)
    mixed = ",".join(str(round(a + (b - a) * share)) for a, b in zip(low, high, strict=True))
    return f"background:rgb({mixed});color:{'#fff' if share > 0.55 else '#1a1a1a'}"
