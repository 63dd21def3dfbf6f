"""One thread for BLAS and OpenMP, before NumPy is imported: two busy 2-thread BLAS processes slow each other down
by up to 90 times.  A test whose subject is threads asks for more itself.
"""

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
