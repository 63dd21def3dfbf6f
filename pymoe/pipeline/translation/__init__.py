"""Machine translation: pairs of sentences in, a sparse encoder-decoder out, and what it translates.

- ``pairs``, ``cldr``: parallel text from files, or names and dates from Babel;
- ``bpe``: one byte-level vocabulary for both languages;
- ``batches``: batches by length, a function of (seed, step);
- ``settings``, ``train``, ``job``: sizes, the loop, what lies in a checkpoint;
- ``evaluate``: held-out loss, translations by beam search, BLEU and chrF; ``plots``: the learning curve;
- ``translator``: a trained one in one object.
"""
