"""One contender of ``layer.py``: ``python worker.py NAME T D F E K``, then a line "forward" or "both" for each call."""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable

from interleave import serve

SEED = 0


def floor(t: int, d: int, f: int, e: int, k: int) -> dict[str, Callable[[], object]]:
    """The matrix products of the layer and nothing else, into arrays allocated beforehand, by the same routing."""
    import numpy as np

    x, dy, p, plan = _problem(t, d, f, e, k)
    rows = int(plan.token.shape[0])
    up, down, router = p["experts"]["gate_up_proj"], p["experts"]["down_proj"], p["router"]["weight"]
    xs, dys = x[plan.token], dy[plan.token]
    a, h = np.empty((rows, 2 * f), np.float32), np.ones((rows, f), np.float32)
    o, dh, da, dxs = np.empty((rows, d), np.float32), np.empty_like(h), np.ones_like(a), np.empty_like(xs)
    dup, ddown = np.zeros_like(up), np.zeros_like(down)
    z, dz = np.empty((t, e), np.float32), np.ones((t, e), np.float32)
    dx, drouter = np.empty_like(x), np.empty_like(router)
    bounds = plan.start.tolist()
    groups = [(i, slice(lo, hi)) for i, (lo, hi) in enumerate(zip(bounds, bounds[1:], strict=False)) if hi > lo]

    def forward() -> None:
        np.matmul(x, router.T, out=z)
        for i, s in groups:
            np.matmul(xs[s], up[i].T, out=a[s])
        for i, s in groups:
            np.matmul(h[s], down[i].T, out=o[s])

    def both() -> None:
        forward()
        for i, s in groups:
            np.matmul(dys[s], down[i], out=dh[s])
        for i, s in groups:
            np.matmul(dys[s].T, h[s], out=ddown[i])
        for i, s in groups:
            np.matmul(da[s].T, xs[s], out=dup[i])
        for i, s in groups:
            np.matmul(da[s], up[i], out=dxs[s])
        np.matmul(dz, router, out=dx)
        np.matmul(dz.T, x, out=drouter)

    return {"forward": forward, "both": both}


def _problem(t: int, d: int, f: int, e: int, k: int):  # type: ignore[no-untyped-def]
    """x, dy, parameters and plan in float32: an OLMoE layer (softmax, top-k, not renormalised, SwiGLU)."""
    import numpy as np

    from pymoe import moe, presets
    from pymoe.moe import plan

    rng = np.random.default_rng(SEED)
    cfg = presets.olmoe(d_model=d, d_ff=f, n_experts=e, k=k, losses=("balance",))
    p = moe.init(rng, cfg, np.float32)
    x, dy = (rng.standard_normal((t, d)).astype(np.float32) for _ in range(2))
    idx = moe.forward(x, p, cfg)[0].routing.idx
    return x, dy, p, plan.make(idx, None, e)


def pymoe(t: int, d: int, f: int, e: int, k: int) -> dict[str, Callable[[], object]]:
    from pymoe import moe, presets

    x, dy, p, _ = _problem(t, d, f, e, k)
    cfg = presets.olmoe(d_model=d, d_ff=f, n_experts=e, k=k, losses=("balance",))

    def both() -> object:
        _, cache = moe.forward(x, p, cfg)
        return moe.backward(dy, cache, {"balance": 0.01})

    def memory() -> float:
        """Peak bytes of forward+backward above the inputs and the parameter gradients, over what must be kept."""
        kept = x.nbytes + 4 * t * k * 2 * f + 4 * t * e + 12 * t * k
        tracemalloc.start()
        result = both()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        del result
        gradients = sum(a.nbytes for part in p.values() for a in part.values())
        return (peak - gradients) / kept

    return {"forward": lambda: moe.forward(x, p, cfg), "both": both, "memory": memory}


def _olmoe(implementation: str) -> Callable[..., dict[str, Callable[[], object]]]:
    def make(t: int, d: int, f: int, e: int, k: int) -> dict[str, Callable[[], object]]:
        import torch
        from transformers import OlmoeConfig
        from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock

        torch.manual_seed(SEED)
        sizes = {"hidden_size": d, "intermediate_size": f, "num_experts": e, "num_experts_per_tok": k}
        cfg = OlmoeConfig(**sizes, num_attention_heads=1)
        cfg._experts_implementation = implementation
        block = OlmoeSparseMoeBlock(cfg)
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        x = torch.randn(1, t, d, requires_grad=True)
        dy = torch.randn(1, t, d)

        def output() -> torch.Tensor:
            y = block(x)
            return y[0] if isinstance(y, tuple) else y

        def forward() -> None:
            with torch.no_grad():
                output()

        def both() -> None:
            x.grad = None
            block.zero_grad(set_to_none=True)
            output().backward(dy)

        return {"forward": forward, "both": both}

    return make


def onnxruntime(t: int, d: int, f: int, e: int, k: int) -> dict[str, Callable[[], object]]:
    """com.microsoft.MoE with SwiGLU experts; forward only."""
    import numpy as np
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(SEED)
    up = (rng.standard_normal((e, 2 * f, d)) / np.sqrt(d)).astype(np.float32)
    down = (rng.standard_normal((e, d, f)) / np.sqrt(f)).astype(np.float32)
    router = (rng.standard_normal((d, e)) / np.sqrt(d)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "router"], ["z"]),
        helper.make_node(
            "MoE", ["x", "z", "up", "", "down"], ["y"], domain="com.microsoft", k=k, activation_type="swiglu",
            swiglu_fusion=1, normalize_routing_weights=0,
        ),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "moe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [t, d])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [t, d])],
        [numpy_helper.from_array(a, n) for a, n in ((up, "up"), (down, "down"), (router, "router"))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(*o) for o in (("", 17), ("com.microsoft", 1))])
    model.ir_version = 8
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = rng.standard_normal((t, d)).astype(np.float32)
    return {"forward": lambda: session.run(None, {"x": x})}


def ragged_dot(t: int, d: int, f: int, e: int, k: int) -> dict[str, Callable[[], object]]:
    """The layer on jax.lax.ragged_dot, compiled."""
    import jax
    import jax.numpy as jnp

    def init(key: jax.Array, *shape: int) -> jax.Array:
        return jax.random.normal(key, shape, jnp.float32) * shape[-2] ** -0.5

    keys = jax.random.split(jax.random.key(SEED), 5)
    p = (init(keys[0], d, e), init(keys[1], e, d, 2 * f), init(keys[2], e, f, d))
    x, dy = jax.random.normal(keys[3], (t, d)), jax.random.normal(keys[4], (t, d))

    def layer(x: jax.Array, p: tuple[jax.Array, ...]) -> jax.Array:
        router, up, down = p
        g, idx = jax.lax.top_k(jax.nn.softmax(x @ router), k)
        order = jnp.argsort(idx.reshape(-1), stable=True)
        sizes = jnp.bincount(idx.reshape(-1), length=e).astype(jnp.int32)
        a = jax.lax.ragged_dot(x[order // k], up, sizes)
        o = jax.lax.ragged_dot(jax.nn.silu(a[:, :f]) * a[:, f:], down, sizes)
        back = jnp.argsort(order)
        return (o[back].reshape(t, k, d) * g[..., None]).sum(1)

    forward = jax.jit(layer)
    both = jax.jit(jax.grad(lambda x, p: (layer(x, p) * dy).sum(), argnums=(0, 1)))
    return {
        "forward": lambda: forward(x, p).block_until_ready(),
        "both": lambda: jax.block_until_ready(both(x, p)),
    }


CONTENDERS = {
    "floor": floor,
    "pymoe": pymoe,
    "transformers eager": _olmoe("eager"),
    "transformers grouped_mm": _olmoe("grouped_mm"),
    "onnxruntime MoE": onnxruntime,
    "jax ragged_dot": ragged_dot,
}


def peak(size: int) -> float:
    """GF/s of a float32 product of three size x size matrices, best of 7."""
    import numpy as np

    a, b, c = (np.ones((size, size), np.float32) for _ in range(3))
    best = float("inf")
    for _ in range(7):
        start = time.perf_counter()
        np.matmul(a, b, out=c)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def main() -> None:
    name, *sizes = sys.argv[1:]
    if name == "peak":
        print(f"@{peak(int(sizes[0])):.1f}", flush=True)
        return
    serve(CONTENDERS[name](*map(int, sizes)))


if __name__ == "__main__":
    main()
