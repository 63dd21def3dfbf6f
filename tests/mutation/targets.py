"""Which module is judged by which tests: a module by the tests that mirror its path, and by the tables of cases."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from types import ModuleType

import pymoe.moe
import pymoe.ops
import pymoe.sparsity
import pymoe.storage
from pymoe.verify.mutate import Target

TESTS = Path(__file__).resolve().parents[1]
# settings, names, and what only draws random numbers or raises: no arithmetic of a forward or a backward
LEFT_OUT = {f"pymoe.moe.{name}" for name in ("config", "router_config", "router_checks", "given")}
# tests of a setting or a kind of weight that goes through several modules of the layer, without their slow gradients
THROUGH = {
    "test_router_options.py": {
        "auxiliary",
        "decide",
        "joint",
        "logits",
        "router",
        "weigh",
        "capacity",
        "balance",
        "importance",
        "load",
        "l1",
        "entropy",
        "top_p",
        "table",
        "given",
        "group_limited",
        "router_parameters",
    },
    "test_gate_residual.py": {"logits"},
    "test_tied.py::untied": {"experts", "layer", "parameters", "plan", "router"},
    "test_tied.py::twice": {"experts", "layer", "plan", "router"},
    "test_skip.py::loop": {"layer", "router", "weigh"},
    "test_skip.py::skipp": {"layer", "router", "weigh"},
    "test_skip.py::threshold": {"router", "weigh"},
    "test_skip.py::padding": {"router", "weigh"},
    "test_skip.py::gradients[{}]": {"weigh"},
    "test_stored.py::dense_layer": {"experts", "layer", "parameters", "shared"},
    "test_stored.py::all_weights_zero": {"experts", "layer", "shared"},
}


def _files(folder: str, pattern: str = "test_*.py") -> list[str]:
    return [str(p) for p in sorted((TESTS / folder).rglob(pattern))]


def ops(every: int = 1) -> list[Target]:
    """One target for each op: its rows of the case table, and all edge cases."""
    targets = []
    for info in pkgutil.iter_modules(pymoe.ops.__path__):
        text = "" if info.name.startswith("_") else info.name
        suites = (
            f"{TESTS}/ops/test_bench.py::{text}",
            f"{TESTS}/mutation/test_op_gaps.py",
            f"{TESTS}/ops/test_edges.py",
        )
        targets.append(Target(f"pymoe.ops.{info.name}", suites, every))
    return targets


def kernels(every: int = 1) -> list[Target]:
    """The definitions, by loops.  (That the compiled twins agree with them is tests/kernels/test_twins.py.)"""
    suites = (f"{TESTS}/mutation/test_kernel_loops.py",)
    return [
        Target("pymoe.kernels.activations", suites, every),
        Target("pymoe.kernels.reference", suites, every),
        Target("pymoe.kernels.reference_norm", (f"{TESTS}/kernels/test_norm.py",), every),
        # blocks are spread over a dense array by what CSR spreads entries with
        Target("pymoe.kernels.reference_csr", tuple(f"{TESTS}/kernels/test_{f}.py" for f in ("csr", "bsr")), every),
        Target("pymoe.kernels.reference_bsr", (f"{TESTS}/kernels/test_bsr.py",), every),
        Target("pymoe.kernels.reference_nm", (f"{TESTS}/kernels/test_nm.py",), every),
    ]


# what every setting of a router, and every form of the experts and what goes round them, is judged by
ROUTER = (
    f"{TESTS}/moe/test_router_options.py::loops",
    f"{TESTS}/moe/test_layer_invariants_settings.py::router",
    f"{TESTS}/moe/test_router_options.py::live_gradient",
)
FORMS = (
    f"{TESTS}/moe/test_layer_invariants_settings.py",
    f"{TESTS}/moe/test_forms.py::padding",
    f"{TESTS}/moe/test_forms_oracle.py",
    f"{TESTS}/moe/test_forms.py::random_directions",
    f"{TESTS}/moe/test_forms.py::exactly_nothing",
    f"{TESTS}/moe/test_shipped_bugs_settings.py",
)
OF_FORMS = {
    "experts",
    "form",
    "grouped",
    "hidden",
    "latent",
    "layer",
    "norms",
    "nulls",
    "output",
    "parameters",
    "shared",
}
# layers of their own: what the layer's tests say does not touch them
APART = {
    "attention_experts": "moe/attention_experts/test_attention_experts.py",
    "padded": "moe/test_padded.py",
    "shards": "moe/test_shards.py",
    "pooled": "moe/losses/test_variants.py",
}


def moe(every: int = 1) -> list[Target]:
    """Each module of the layer by the loop oracles, limits, invariants, dtypes, and the tests of its name."""
    common = (
        f"{TESTS}/mutation/moe_suite.py:suite",
        f"{TESTS}/mutation/test_moe_gaps.py",
        f"{TESTS}/moe/test_layer_input.py",
        f"{TESTS}/moe/test_layer_torch.py",
        f"{TESTS}/moe/test_layer_precision.py::test_dtypes",
        f"{TESTS}/moe/test_layer_gradients.py::token",
        f"{TESTS}/moe/test_layer_invariants.py",
    )
    targets = []
    for name in _modules(pymoe.moe):
        if name in LEFT_OUT:
            continue
        part, short = name.split(".")[2], name.rpartition(".")[2]
        own = _files("moe", f"test_{short}.py")
        if part == "rules":  # a layer of its own: what the other layer does says nothing about it
            if short == "form":  # what all rules lean on, by two that use most of it
                own = [*own, *_files("moe/rules", "test_remoe.py"), *_files("moe/rules", "test_sparse_mixer.py")]
            targets.append(Target(name, tuple(own), every))
            continue
        apart = APART.get(part) or APART.get(short)
        if apart:
            targets.append(Target(name, (f"{TESTS}/{apart}", f"{TESTS}/mutation/test_moe_gaps.py"), every))
            continue
        if part in ("losses", "select"):
            own = [*own, *(_files("moe/losses") if part == "losses" else [f"{TESTS}/moe/select/test_select.py"])]
        settings = FORMS if short in OF_FORMS else ROUTER
        through = [f"{TESTS}/moe/{spec}" for spec, modules in THROUGH.items() if short in modules]
        targets.append(Target(name, (*own, *common, *settings, *through), every))
    return targets


# beside the tests of its path: oracles by loops, and the properties P1 to P10
JUDGES = {
    "masks": ("test_masks_oracle.py", "test_properties.py"),
    "schedule": ("test_schedule_oracle.py", "test_properties.py"),
    "experts": ("test_experts_oracle.py",),
    "scores": ("test_scores_oracle.py", "test_properties.py"),
    "sparsegpt": ("test_obs_oracle.py",),
    "obs": ("test_obs_oracle.py",),
    "masked": ("test_masked_oracle.py",),
    "units": ("test_units_oracle.py",),
    "layerwise": ("test_layerwise_oracle.py",),
    "statistics": ("test_experts_oracle.py",),
}

# the tests of whole experts that are about one module, where all of them take seconds
OF_EXPERTS = {
    "cut": ("cut", "dropping", "fit", "groups", "tied"),
    "naee": ("naee",),
    "scores": ("keep", "nobody", "scores"),
    "skipping": ("threshold",),
}


def sparsity(every: int = 1) -> list[Target]:
    """Masks, scores, compensation, schedules, whole experts; and the weights that are stored without their zeros."""
    targets = []
    for name in _modules(pymoe.sparsity):
        part, short = name.split(".")[2], name.rpartition(".")[2]
        others = [f"{TESTS}/sparsity/{file}" for file in JUDGES.get(part, ())]
        if part == "experts":
            others += [f"{TESTS}/sparsity/experts/test_experts.py::{text}" for text in OF_EXPERTS[short]]
        own = [f"{TESTS}/{'/'.join(name.split('.')[1:-1])}/test_{short}.py"]
        suites = (*(f for f in own if Path(f).exists()), f"{TESTS}/mutation/test_sparsity_gaps.py", *others)
        targets.append(Target(name, suites, every))
    gaps = f"{TESTS}/mutation/test_sparsity_gaps.py"
    common = [f"{TESTS}/storage/test_{name}.py" for name in ("forms", "weight")]
    for name in _modules(pymoe.storage):
        short = name.rpartition(".")[2]
        own = _files("storage", "test_*.py" if short == "_make" else f"test_{short}.py")
        targets.append(Target(name, (*(f for f in own if f not in common), gaps, *common), every))
    return targets


def _modules(package: ModuleType) -> list[str]:
    """The modules below a package that are not packages themselves."""
    return [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.") if not m.ispkg]


GROUPS = {"ops": ops, "kernels": kernels, "moe": moe, "sparsity": sparsity}
# what the slow run judges: one mutant in n of a group; all of them take many minutes there, run.py alone does it
EVERY = {"moe": 40, "sparsity": 3}
