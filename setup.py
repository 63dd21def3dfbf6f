"""Builds the optional extension ``pymoe.kernels._cython``; all metadata is in pyproject.toml.

Environment variables:

- PYMOE_DEBUG_BUILD=1        checked indices, overflow and None in the Cython code, checked rows in the leaf loops
- PYMOE_REQUIRE_EXTENSION=1  a failed build is an error (without it: a message, and pymoe runs on its NumPy kernels)
- PYMOE_SIMD=baseline        one copy of each leaf loop, for the compiler's default processor (sanitisers need this)
- CC, CFLAGS, LDFLAGS        as usual; the flags below come after them
"""

from __future__ import annotations

import os
import sys
import tempfile

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("PYMOE_DEBUG_BUILD") == "1"
REQUIRED = os.environ.get("PYMOE_REQUIRE_EXTENSION") == "1"
CLONES = os.environ.get("PYMOE_SIMD", "auto") != "baseline"

# The only place with compiler directives: a directive in a file header would win over these.
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "overflowcheck": DEBUG,
    "cdivision": True,
    "embedsignature": True,
}

# No -ffast-math: the same bits at every SIMD level need every operation as written, and no fused multiply-add.
FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fcx-fortran-rules", "-Wno-psabi"]

PROBES = {
    "plain": "int main(void) { return 0; }",
    "c11": """
        typedef float v __attribute__((vector_size(64)));
        int main(void) { v a = {0}; return _Generic((&a), v *: 0, int *: 1); }
    """,
    "openmp": """
        #include <omp.h>
        int main(void) { return omp_get_max_threads() < 1; }
    """,
    "clones": """
        __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) int f(int x) { return x + 1; }
        int main(void) { __builtin_cpu_init(); return f(-1) + 0 * __builtin_cpu_supports("avx512vl"); }
    """,
}


class BuildOptional(build_ext):
    """Ask the compiler what it can do; leave the extension out where it cannot be built."""

    def works(self, source: str, flags: list[str]) -> bool:
        """Does ``source`` compile and link with ``flags``?"""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "probe.c")
            with open(path, "w") as f:
                f.write(source + "\n")
            try:
                objects = self.compiler.compile([path], output_dir=folder, extra_postargs=["-Werror", *flags])
                self.compiler.link_shared_object(objects, os.path.join(folder, "probe.so"), extra_postargs=flags)
            except Exception:  # the compiler classes raise many types, and any of them means no
                return False
            return True

    def build_extensions(self) -> None:
        try:
            if not self.works(PROBES["c11"], []):
                raise RuntimeError(f"{self.compiler.compiler[0]} is no working C11 compiler with vector types")
            flags = [f for f in FLAGS if self.works(PROBES["plain"], [f])]
            openmp = ["-fopenmp"] if self.works(PROBES["openmp"], ["-fopenmp"]) else []
            if not openmp:
                print("pymoe: this compiler has no OpenMP: the kernels are built for one thread", file=sys.stderr)
            for extension in self.extensions:
                extension.extra_compile_args = [*flags, *openmp]
                extension.extra_link_args = openmp
                if CLONES and self.works(PROBES["clones"], []):
                    extension.define_macros.append(("PYMOE_TARGET_CLONES", "1"))
            super().build_extensions()
        except Exception as error:
            if REQUIRED:
                raise
            print(
                f"pymoe: the Cython kernels were NOT built ({type(error).__name__}: {error}).\n"
                "pymoe works without them, on its NumPy kernels, several times slower.  For the fast ones install a C\n"
                "compiler (Debian, Ubuntu: apt install gcc python3-dev) and run pip install again.",
                file=sys.stderr,
            )
            self.extensions = []


def extensions() -> list[Extension]:
    try:
        from Cython.Build import cythonize
    except ImportError:
        if REQUIRED:
            raise
        print("pymoe: Cython is not installed: building without the compiled kernels", file=sys.stderr)
        return []
    headers = [os.path.join("csrc", name) for name in sorted(os.listdir("csrc")) if name.endswith(".h")]
    extension = Extension(
        "pymoe.kernels._cython",
        [os.path.join("csrc", "_cython.pyx")],
        include_dirs=["csrc"],
        depends=headers,
        define_macros=[("PYMOE_DEBUG", "1")] if DEBUG else [],
    )
    build_dir = os.path.join("build", "cython-debug" if DEBUG else "cython")
    return list(cythonize([extension], build_dir=build_dir, compiler_directives=DIRECTIVES, quiet=True))


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildOptional})
