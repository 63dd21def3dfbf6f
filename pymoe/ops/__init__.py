"""F2: one module an op, each with its formulas in both directions, ``Cache``, ``forward`` and ``backward``."""
