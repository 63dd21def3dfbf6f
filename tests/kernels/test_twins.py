"""The compiled kernels against their definition: bit by bit on integers, 64 u on floats, imaginary parts included."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest

from pymoe import kernels
from pymoe.kernels import activations, cython, cython_bsr, cython_csr, cython_nm, cython_norm, reference
from tests.kernels.cases import ACTS, DTYPES, Call, bits, calls, mismatch, outputs

TOLERANCE = 64.0  # units of u · max|tensor|


def definition(call: Call):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return getattr(reference, call.name)(*call.args, **call.kwargs)


def compiled(call: Call):
    return getattr(cython, call.name)(*call.args, **call.kwargs)


def is_gelu(call: Call) -> bool:
    return any(isinstance(a, str) and a == "gelu" for a in call.args)


def defined(call: Call, dtype: str) -> bool:
    """SciPy has no erf of a long double."""
    return not (dtype == "g" and is_gelu(call))


def test_every_kernel_is_called_here():
    assert {c.name for c in calls("f8")} == set(reference.__all__) == set(cython.__all__) == set(kernels.NAMES)
    assert set(ACTS) == set(activations.ACTIVATIONS) == set(cython._CODES)


@pytest.mark.parametrize("name", kernels.NAMES)
def test_signatures_are_equal(name):
    assert inspect.signature(getattr(cython, name)) == inspect.signature(getattr(reference, name))


@pytest.mark.parametrize("dtype", DTYPES)
def test_floats_agree_to_64_u(dtype):
    for call in calls(dtype):
        if defined(call, dtype):
            assert mismatch(compiled(call), definition(call)) <= TOLERANCE, call.label


@pytest.mark.parametrize("dtype", DTYPES)
def test_integers_agree_bit_by_bit(dtype):
    for call in calls(dtype, integer=True):
        if call.linear:
            for got, want in zip(outputs(compiled(call)), outputs(definition(call)), strict=True):
                assert got.dtype == want.dtype and np.array_equal(got, want), call.label


def test_adamw_agrees_bit_by_bit_on_any_floats():
    for dtype in ("f4", "f8"):
        call = calls(dtype)[-1]
        assert bits(compiled(call)) == bits(definition(call))


def test_a_relative_error_of_1e_3_in_one_entry_is_seen():
    for dtype in DTYPES:
        for call in calls(dtype):
            if not defined(call, dtype):
                continue
            want = definition(call)
            spoilt = [a.copy() for a in outputs(compiled(call))]
            for a in spoilt:
                flat = a.reshape(-1)
                worst = int(np.argmax(np.abs(flat)))
                flat[worst] = not flat[worst] if a.dtype.kind == "b" else flat[worst] * 1.001 + (a.dtype.kind == "i")
            assert mismatch(tuple(spoilt), outputs(want)) > TOLERANCE, call.label


@pytest.mark.parametrize("name", sorted(set(kernels.NAMES) - {"counting_sort", "topk", "nm_mask", "prune_mask"}))
def test_imaginary_parts_of_1e_200_are_carried(name):
    """The complex step goes through: the imaginary part is the derivative, to 64 u of its own maximum."""
    rng = np.random.default_rng(7)
    for call in calls("c16"):
        if call.name != name:
            continue
        args = tuple(
            a.real + 1e-200j * rng.standard_normal(a.shape) if isinstance(a, np.ndarray) and a.dtype.kind == "c" else a
            for a in call.args
        )
        if name == "adamw":
            args = (*args[:3], args[3].real ** 2 + 0.1 + 1j * args[3].imag)
        call = call._replace(args=args)
        got, want = compiled(call), definition(call)
        assert mismatch(got, want, part="real") <= TOLERANCE, call.label
        assert mismatch(got, want, part="imag") <= TOLERANCE, call.label
        assert any(np.any(a.imag != 0) for a in outputs(got)), call.label


def test_gelu_of_a_long_double_uses_its_own_erf():
    from mpmath import mp, mpf

    x = np.array([-3.5, -0.7, 0.2, 1.9], dtype="g")
    got = cython.act_forward(x, "gelu")
    with mp.workdps(40):
        want = [mpf(v) * (1 + mp.erf(mpf(v) * mpf(0.5**0.5))) / 2 for v in x.astype(float).tolist()]  # √½ in double
        exact = np.array([mp.nstr(w, 30) for w in want]).astype("g")
    assert np.max(np.abs(got - exact)) <= 8 * np.finfo("g").eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_byte_order_and_alignment_do_not_change_a_bit(dtype):
    def reverse(a):
        return a[::-1, ::-1].copy()[::-1, ::-1] if a.ndim == 2 else a[::-1].copy()[::-1]

    def fortran(a):
        return np.asfortranarray(a)

    def strided(a):
        return np.repeat(a, 2, axis=-1)[..., ::2]

    def swapped(a):
        return a.astype(a.dtype.newbyteorder(">"))

    def unaligned(a):
        room = np.empty(a.nbytes + 1, dtype=np.uint8)
        there = room[1:].view(a.dtype).reshape(a.shape) if a.size else a
        there[...] = a
        assert not there.flags.aligned or a.itemsize == 1
        return there

    for call in calls(dtype, seed=1):
        if dtype == "c16" and is_gelu(call):
            continue  # erf of a complex number: the definition computes it
        want = bits(compiled(call))
        for layout in (reverse, fortran, strided, swapped, unaligned):
            args = tuple(layout(a) if isinstance(a, np.ndarray) else a for a in call.args)
            before = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
            assert bits(getattr(cython, call.name)(*args, **call.kwargs)) == want, (layout.__name__, call.label)
            assert all(np.array_equal(a, b) for a, b in zip(args, before, strict=True) if isinstance(a, np.ndarray))


def test_outputs_are_fresh_and_native():
    for call in calls("f8"):
        out = outputs(compiled(call))
        for a in out:
            assert a.flags.writeable and a.dtype.isnative
            assert not any(np.may_share_memory(a, b) for b in call.args if isinstance(b, np.ndarray)), call.label


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_of_an_output_is_written(dtype, monkeypatch):
    made = calls(dtype)
    want = [bits(compiled(call)) for call in made]
    filled = 0

    def full_of_ones(*args, **kwargs):
        nonlocal filled
        filled += 1
        a = np.zeros(*args, **kwargs)
        a.reshape(-1).view(np.uint8)[...] = 0xFF
        return a

    for door in (cython, cython_bsr, cython_csr, cython_nm, cython_norm):
        monkeypatch.setattr(door, "np", _WithEmpty(full_of_ones))
    for call, bit in zip(made, want, strict=True):
        assert bits(compiled(call)) == bit, call.label
    assert filled > len(made) - 8


class _WithEmpty:
    """NumPy with another ``empty``."""

    def __init__(self, empty):
        self.empty = empty

    def __getattr__(self, name):
        return getattr(np, name)


def test_mixed_dtypes_promote_as_in_the_definition():
    single, double = calls("f4"), calls("f8")
    for a, b in zip(single, double, strict=True):
        mixed = tuple(
            y if i % 2 else x for i, (x, y) in enumerate(zip(a.args, b.args, strict=True))
        )  # every second argument in double
        call = a._replace(args=mixed)
        want = definition(call)
        got = compiled(call)
        assert [x.dtype for x in outputs(got)] == [x.dtype for x in outputs(want)], call.label
        assert mismatch(got, want) <= TOLERANCE * 2.0 ** (53 - 24), call.label


def test_of_picks_the_compiled_kernels_and_using_overrules():
    for dtype in (*DTYPES, ">f4", "i8", "u2"):
        assert kernels.of(np.ones(2, dtype=dtype)) is cython
    for dtype in ("f2", "c8", "G", "O", "?"):
        assert kernels.of(np.ones(2, dtype=dtype)) is reference
    with kernels.using("reference"):
        assert kernels.of(np.ones(2)) is reference
