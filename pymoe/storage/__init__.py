"""F2.5: weights that are not one dense array: CSR, BSR, N:M, and a mean with low-rank differences.

>>> import numpy as np
>>> from pymoe import storage
>>> w = storage.csr.from_dense(np.array([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]]))
>>> w, w.nbytes
(CSR(shape=(2, 3), nnz=2, dtype=float64), 36)
>>> w.linear(np.array([1.0, 10.0, 100.0]))
array([20.,  3.])
"""

from pymoe.storage import bsr, csr, delta, forms, nm
from pymoe.storage.bsr import BSR
from pymoe.storage.csr import CSR
from pymoe.storage.delta import Delta
from pymoe.storage.nm import NM
from pymoe.storage.trees import join, split
from pymoe.storage.weight import Weight

__all__ = ["BSR", "CSR", "NM", "Delta", "Weight", "bsr", "csr", "delta", "forms", "join", "nm", "split"]
