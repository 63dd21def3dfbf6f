"""F8: the command ``pymoe``: train, generate, verify, info.  Importing it must not import NumPy (``blas_core``)."""
