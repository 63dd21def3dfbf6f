"""What a named rule does, on one page: formulas, gradient, what is constant, source, and an example with its numbers.

>>> from pymoe.verify import explain
>>> explain.find("mixtral").summary
'Softmax, top-k, renormalised (= softmax over the k chosen logits).'
>>> "an example: 3 tokens" in explain.page("mixtral")
True
"""

from pymoe.verify.explain.catalogue import Entry, entries, find
from pymoe.verify.explain.page import page
from pymoe.verify.explain.steps import Step

__all__ = ["Entry", "Step", "entries", "find", "page"]
