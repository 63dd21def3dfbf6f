"""Everything that has to run on any array library: kernels, ops, the layer with every preset, whole models.

A subject is ``run(to)``: it makes its NumPy inputs (seeded, read-only), hands each to ``to``, computes forward and
backward, and returns a nest of results.  The strict tests and the GPU tests compare that nest with the one of NumPy.
New kernels, ops, presets and models come in by discovery.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from pymoe import kernels, models, moe, presets, storage
from pymoe.backend import to_numpy, tree
from pymoe.train import clip
from pymoe.train.optim import OPTIMIZERS

from ..gpu import cases as kernel_cases
from ..ops.cases import CASES as OP_CASES

To = Callable[[np.ndarray], Any]
T, D, F, E, K = 12, 5, 6, 8, 2  # tokens as (3, 4); expert choice needs K T / E to be whole


class Subject(NamedTuple):
    name: str
    run: Callable[[To], Any]


def convert(nest: Any, to: To) -> Any:
    """``to`` for every NumPy array of a nest of dicts, tuples and NamedTuples."""
    if isinstance(nest, np.ndarray):
        nest.setflags(write=False)
        return to(nest)
    if isinstance(nest, Mapping):
        return {name: convert(value, to) for name, value in nest.items()}
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return type(nest)(*(convert(value, to) for value in nest))
    if isinstance(nest, (tuple, list)):
        return type(nest)(convert(value, to) for value in nest)
    return nest


def leaves(nest: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, array or number) of everything in a nest."""
    if hasattr(nest, "shape"):
        yield path, nest
    elif isinstance(nest, Mapping):
        for name, value in nest.items():
            yield from leaves(value, f"{path}.{name}")
    elif isinstance(nest, tuple) and hasattr(nest, "_fields"):
        yield from leaves(nest._asdict(), path)
    elif isinstance(nest, (tuple, list)):
        for i, value in enumerate(nest):
            yield from leaves(value, f"{path}[{i}]")
    elif nest is not None:
        yield path, np.asarray(nest)


def deviation(got: Any, want: Any) -> tuple[float, str]:
    """(largest deviation relative to the tensor's maximum, its path).  Integers, NaN and infinities must be equal."""
    worst = (0.0, "")
    given, wanted = dict(leaves(got)), dict(leaves(want))
    if given.keys() != wanted.keys():
        return np.inf, f"only in one: {sorted(given.keys() ^ wanted.keys())}"
    for path, w in wanted.items():
        g, w = _host(given[path]), _host(w)
        if g.shape != w.shape or g.dtype.kind != w.dtype.kind:
            return np.inf, f"{path}: {g.dtype}{g.shape} instead of {w.dtype}{w.shape}"
        finite = np.isfinite(w)
        if w.dtype.kind != "f" or not finite.all():
            same = (g == w) | ((g != g) & (w != w)) if w.dtype.kind == "f" else g == w
            if not (same | finite if w.dtype.kind == "f" else same).all():
                return np.inf, path
        if w.dtype.kind == "f" and w.size:
            scale = np.max(np.abs(w), where=finite, initial=0) or 1.0
            off = np.max(np.abs(np.where(finite, g, 0) - np.where(finite, w, 0)), initial=0) / scale
            worst = max(worst, (float(off) if off == off else np.inf, path))
    return worst


def _host(leaf: Any) -> np.ndarray:
    return np.asarray(leaf) if isinstance(leaf, np.generic) else to_numpy(leaf)


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def _like(out: Any, to: To, name: str) -> Any:
    """A random cotangent of ``out``."""
    return convert(_rng(name).standard_normal(tuple(out.shape)), to)


def _kernel(name: str) -> Subject:
    def run(to: To) -> Any:
        kernel, args, keywords = kernel_cases.cases(np.random.default_rng(5), np.float64)[name]
        given = convert(args, to)
        return getattr(kernels.of(given[0]), kernel)(*given, **keywords)

    return Subject(f"kernel {name}", run)


def _op(case: Any) -> Subject:
    def run(to: To) -> Any:
        y, cache = case.op.forward(*convert(case.args(), to), **convert(case.static, to))
        return y, case.op.backward(_like(y, to, case.name), cache)

    return Subject(f"op {case.name}", run)


def _layer(name: str, variant: str) -> Subject:
    settings: dict[str, Any] = {
        "plain": {},
        "padding": {},
        "shared": {"bias": True, "d_shared": 7, "router_bias": True},
        "capacity": {"capacity": moe.Capacity(factor=0.7, order="score")},
    }[variant]

    def run(to: To) -> Any:
        rng = _rng(f"{name} {variant}")
        cfg = presets.PRESETS[name](d_model=D, d_ff=F, n_experts=E, k=1 if name == "switch" else K, **settings)
        p = moe.init(rng, cfg)
        for leaf in ("bias", "selection_bias", "noise_weight"):
            if leaf in p["router"]:
                p["router"][leaf] = rng.standard_normal(p["router"][leaf].shape)
        for leaf in [n for n in p["experts"] if n.endswith("_bias")]:
            p["experts"][leaf] = rng.standard_normal(p["experts"][leaf].shape)
        mask = np.arange(4) < np.array([[4], [1], [3]]) if variant == "padding" else None
        x, draws = rng.standard_normal((3, 4, D)), moe.draw(rng, cfg, T)
        given = moe.Given(token_ids=np.arange(12)) if cfg.router.select == "table" else moe.Given()
        out, cache = moe.forward(*convert((x, p), to), cfg, *convert((mask, draws, given), to))
        dlosses = {loss: 0.5 + i for i, loss in enumerate(out.losses)}
        return out, moe.backward(_like(out.y, to, name), cache, dlosses)

    return Subject(f"layer {name} {variant}", run)


FORMS: dict[str, dict[str, Any]] = {
    "gpt-oss": {"limit": 0.8, "gate_alpha": 1.702, "up_offset": 1.0, "bias": True, "weight_at": "pre_down"},
    "latent": {
        "weight_at": "input", "d_latent": 7, "latent_norm": moe.Norm(), "latent_bias": True, "softcap": (1.5, 0.75),
        "post_expert_norm": moe.Norm(0.1, "input"), "output_norm": moe.Norm(0.1), "output_bias": True,
    },
    "joint": {"d_shared": 9, "shared": "joint", "n_shared": 3},
    "gated": {"d_shared": 9, "shared": "gated", "shared_form": moe.Form(limit=0.6, clamp="after")},
}  # fmt: skip
ROUTERS: dict[str, dict[str, Any]] = {
    "joint": {"score": "sigmoid", "norm": "joint", "n_shared_logits": 3, "scale": 2.5, "scale_at": "output"},
    "gated": {"null_experts": ("constant", "identity", "zero")},
}


def _form(name: str) -> Subject:
    """The forms of the experts, with padding."""

    def run(to: To) -> Any:
        rng = _rng(name)
        router = moe.RouterConfig(E, 4, **ROUTERS.get(name, {}))
        cfg = moe.MoEConfig(D, F, router, **FORMS[name])
        p = tree.map(lambda a: rng.standard_normal(a.shape), moe.init(rng, cfg))
        mask = np.arange(4) < np.array([[4], [1], [3]])
        out, cache = moe.forward(*convert((rng.standard_normal((3, 4, D)), p), to), cfg, convert(mask, to))
        return out, moe.backward(_like(out.y, to, name), cache)

    return Subject(f"layer form {name}", run)


def _stored(form: str) -> Subject:
    """The layer with stored experts; the gradients come back as the parts of each."""

    def compress(w: np.ndarray, rng: np.random.Generator) -> storage.Weight:
        keep = rng.random(w.shape) < 0.5
        if form == "csr":
            return storage.csr.from_dense(w, keep)
        if form == "bsr":
            return storage.bsr.from_dense(w, (2, 3), keep & (rng.random(w.shape) < 0.3))
        if form == "nm":
            return storage.nm.from_dense(
                w, 2, 3, kernels.reference.nm_mask(w.reshape(-1, w.shape[-1]), 2, 3).reshape(w.shape)
            )
        e, f, d = w.shape
        return storage.Delta(*(rng.standard_normal(s) / 3 for s in ((f, d), (e, f, 2), (e, 2, d))))

    def run(to: To) -> Any:
        rng = _rng(f"stored {form}")
        cfg = presets.mixtral(d_model=6, d_ff=9, n_experts=E, k=K, bias=True)
        p = moe.init(rng, cfg)
        for name in ("gate_up_proj", "down_proj"):
            w = compress(p["experts"][name], rng)
            p["experts"][name] = storage.forms.restore(storage.forms.describe(w), convert(storage.forms.arrays(w), to))
        arrays, templates = storage.split(p)
        arrays = {**convert({"router": arrays["router"]}, to), "experts": arrays["experts"]}
        for name in ("gate_up_proj_bias", "down_proj_bias"):
            arrays["experts"][name] = convert(rng.standard_normal(arrays["experts"][name].shape), to)
        out, cache = moe.stored.forward(convert(rng.standard_normal((T, 6)), to), arrays, cfg, templates)
        return out, moe.stored.backward(_like(out.y, to, form), cache, {"balance": 0.5})

    return Subject(f"layer stored {form}", run)


def _transformer(variant: str) -> dict[str, Any]:
    layer = presets.mixtral(d_model=12, d_ff=8, n_experts=5, k=2)
    if variant == "deepseek":
        layer = presets.deepseek_v3(d_model=12, d_ff=8, n_experts=4, k=2, n_group=2, topk_group=1, d_shared=7)
    common: dict[str, Any] = dict(vocab=11, d_model=12, n_heads=3, n_kv_heads=1, head_dim=4, d_ff=7, context=9)
    common |= dict(moe=layer)
    if variant == "layer_norm":
        common |= dict(norm="layer", bias=True, gated=False, activation="gelu", dropout=0.2, moe_layers=(1,))
    return common | dict(n_layers=2, label_smoothing=0.1, std=0.3)


def _model(kind: str, variant: str) -> Subject:
    module = getattr(models, kind)

    def run(to: To) -> Any:
        rng = _rng(kind + variant)
        config = {"lm": models.LMConfig, "classifier": models.ClassifierConfig, "seq2seq": models.Seq2SeqConfig}[kind]
        extra: dict[str, Any] = {"n_classes": 3} if kind == "classifier" else {}
        cfg = config(**_transformer(variant), **extra)
        p = module.init(rng, cfg, np.float64)
        ids = rng.integers(0, 11, (2, 5))
        mask = np.arange(5) < np.array([[5], [3]])
        keywords: dict[str, Any] = {"mask": mask}
        args: tuple[Any, ...] = (ids, p, cfg)
        if kind == "seq2seq":
            args += (rng.integers(0, 11, (2, 4)),)
            keywords |= dict(targets=rng.integers(0, 11, (2, 4)), draws=module.draw(rng, cfg, 2, 5, 4))
        else:
            targets = rng.integers(0, 3, 2) if kind == "classifier" else rng.integers(0, 11, (2, 5))
            keywords |= dict(targets=targets, draws=module.draw(rng, cfg, 2, 5))
        out, cache = module.forward(*convert(args, to), **convert(keywords, to))
        dlosses = {loss: 0.5 + i for i, loss in enumerate(out.losses)}
        return out, module.backward(_like(out.logits, to, kind), cache, dlosses)

    return Subject(f"model {kind} {variant}", run)


def _generation(to: To) -> Any:
    """Two steps with a KV cache: the second sees the keys of the first."""
    cfg = models.LMConfig(**_transformer("mixtral"))
    p = convert(models.lm.init(_rng("generation"), cfg, np.float64), to)
    ids = _rng("ids").integers(0, 11, (2, 5))
    first, kv = models.lm.step(convert(ids[:, :3].copy(), to), p, cfg)
    second, kv = models.lm.step(convert(ids[:, 3:].copy(), to), p, cfg, kv)
    return first, second, kv


def _optimizer(name: str) -> Subject:
    def run(to: To) -> Any:
        """Three clipped steps of one tree with a matrix and a vector."""
        rng = _rng(name)
        p = convert({"a": {"weight": rng.standard_normal((7, 5))}, "bias": rng.standard_normal(3)}, to)
        state, norms = OPTIMIZERS[name].init(p), []
        for step in (1, 2, 3):
            dp = convert({"a": {"weight": rng.standard_normal((7, 5))}, "bias": rng.standard_normal(3)}, to)
            dp, norm = clip.by_global_norm(dp, 2.0)
            p, state = OPTIMIZERS[name].update(p, dp, state, lr=0.1, step=step)
            norms.append(norm)
        return p, state, norms

    return Subject(f"optimizer {name}", run)


def _bias_update(to: To) -> Any:
    bias, load = convert((_rng("bias").standard_normal(5), np.array([3, 0, 9, 4, 4])), to)
    return moe.bias_update(bias, load, 0.001)


# the others differ from these in the router, which padding goes through whole
EVERY_VARIANT = ("mixtral", "olmoe", "switch", "gshard", "noisy_topk", "deepseek_v2", "deepseek_v3", "expert_choice")


def subjects() -> list[Subject]:
    made = [_kernel(name) for name in kernel_cases.names()]
    made += [_op(case) for case in OP_CASES]
    for name in presets.PRESETS:
        for variant in ("plain", "padding", "shared", "capacity") if name in EVERY_VARIANT else ("padding",):
            choice = presets.PRESETS[name](d_model=D, d_ff=F, n_experts=E).router.select == "expert_choice"
            if not (choice and variant == "capacity"):  # expert choice has its own capacity
                made.append(_layer(name, variant))
    made += [_form(name) for name in FORMS]
    made += [_stored(form) for form in storage.forms.FORMS]
    for kind in ("lm", "classifier", "seq2seq"):
        made += [_model(kind, variant) for variant in ("mixtral", "deepseek", "layer_norm")]
    made += [_optimizer(name) for name in OPTIMIZERS]
    return [*made, Subject("model lm with a KV cache", _generation), Subject("bias update", _bias_update)]


def names_of_model_configs() -> set[str]:
    """The model kinds that exist, so that a new one cannot be forgotten here."""
    classes = {n: c for n, c in vars(models).items() if isinstance(c, type)}
    return {n for n, c in classes.items() if issubclass(c, models.TransformerConfig)}
