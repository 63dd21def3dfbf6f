"""These tests are about the compiled kernels; without a compiler there is nothing to test."""

import pytest

pytest.importorskip("pymoe.kernels.cython", reason="the Cython kernels are not built", exc_type=ImportError)
