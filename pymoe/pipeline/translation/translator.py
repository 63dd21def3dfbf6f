"""A trained translator in one object: ``Translator.load(folder)``, then ``translate`` and ``score``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pymoe.pipeline.translation import evaluate, job
from pymoe.pipeline.translation.evaluate import Scores, Translated
from pymoe.pipeline.translation.job import Job


class Translator:
    """Texts in, translations out, by beam search; made by ``pymoe translate train``.

    ``width``, ``alpha`` and ``beta`` are those of the training's settings unless given (``models.beam``).
    """

    def __init__(self, work: Job, p: dict[str, Any]) -> None:
        self.job, self.p = work, p

    @classmethod
    def load(cls, place: str) -> Translator:
        """Of a model folder, or of its checkpoint; CheckpointError if it is damaged or something else."""
        work, state = job.load(job.find(place))
        return cls(work, state.p)

    def translate(
        self,
        texts: Sequence[str],
        *,
        width: int | None = None,
        alpha: float | None = None,
        beta: float | None = None,
    ) -> list[str]:
        """The best translation of each text."""
        return [found.text for found in self.found(texts, width=width, alpha=alpha, beta=beta)]

    def found(
        self,
        texts: Sequence[str],
        *,
        width: int | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        step: Callable[[int], None] = lambda n: None,
    ) -> list[Translated]:
        """``translate`` with its score, and whether the text was too long for the model."""
        s = self.job.settings
        return evaluate.translate(
            texts,
            self.p,
            self.job.model,
            self.job.bpe,
            width=s.width if width is None else width,
            alpha=s.alpha if alpha is None else alpha,
            beta=s.beta if beta is None else beta,
            step=step,
        )

    def score(self, texts: Sequence[str], references: Sequence[str]) -> Scores:
        """BLEU and chrF of the translations of ``texts``, by sacrebleu."""
        return evaluate.score(self.translate(texts), references)
