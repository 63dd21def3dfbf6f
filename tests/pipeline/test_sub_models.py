"""The sub-models: loss and gradient, the best there is, processes, and a killed fit that goes on to the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from sklearn.linear_model import LogisticRegression

import pymoe
from pymoe import verify
from pymoe.backend.errors import CheckpointError, ConfigError, DataError, GradientError, NonFiniteError
from pymoe.pipeline import descent, softmax_regression, sub_models
from pymoe.pipeline.descent import Settings
from pymoe.pipeline.sub_models import Task


def data(seed: int = 0, n: int = 60, d: int = 7, c: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * (rng.random((n, d)) < 0.7)
    y = (x @ rng.standard_normal((d, c)) + rng.standard_normal((n, c))).argmax(1)
    x.setflags(write=False)
    return x, y


def parameters(seed: int, c: int = 4, d: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((c, d)), rng.standard_normal(c)


def by_loop(x: Any, w: Any, b: Any, y: Any, s: Any, l2: float, anchor: Any) -> float:
    """The formula, a row and a class at a time."""
    total = 0.0
    for n in range(len(x)):
        z = [sum(x[n][j] * w[c][j] for j in range(len(x[n]))) + b[c] for c in range(len(b))]
        total += s[n] * (np.log(sum(np.exp(v) for v in z)) - z[y[n]])
    pulled = sum((w[c][j] - anchor[0][c][j]) ** 2 for c in range(len(b)) for j in range(len(x[0])))
    pulled += sum((b[c] - anchor[1][c]) ** 2 for c in range(len(b)))
    return total / sum(s) + l2 / 2 * pulled


def test_the_loss_is_that_of_a_loop_and_sparse_is_dense() -> None:
    x, y = data(1, 9)
    (w, b), anchor, s = parameters(2), parameters(3), np.random.default_rng(4).random(9) + 0.1
    wanted = by_loop(x, w, b, y, s, 0.3, anchor)
    for rows in (x, scipy.sparse.csr_array(x)):
        loss, cache = softmax_regression.forward(rows, w, b, y, row_weight=s, l2=0.3, anchor=anchor)
        assert abs(loss - wanted) <= 1e-13 * wanted < abs(1.001 * loss - wanted)
    dx, sparse = softmax_regression.backward(0.7, cache)
    dense = softmax_regression.backward(0.7, softmax_regression.forward(x, w, b, y, row_weight=s, l2=0.3,
                                                                        anchor=anchor)[1])[1]  # fmt: skip
    assert dx is None
    assert all(np.abs(sparse[k] - dense[k]).max() <= 1e-15 for k in dense)


@pytest.mark.parametrize("l2, with_anchor", [(0.0, False), (0.3, False), (0.3, True)])
def test_the_gradient_is_that_of_the_complex_step(l2: float, with_anchor: bool) -> None:
    x, y = data(5, 6)
    (w, b), s = parameters(6), np.random.default_rng(7).random(6)
    settings = {"row_weight": s, "l2": l2, "anchor": parameters(8) if with_anchor else None}
    assert verify.gradcheck(softmax_regression, x, w, b, y, **settings).error <= 1e-13

    class Broken:
        forward = staticmethod(softmax_regression.forward)

        @staticmethod
        def backward(dloss: Any, cache: Any) -> Any:
            dx, d = softmax_regression.backward(dloss, cache)
            return dx, {**d, "bias": 1.001 * d["bias"]}

    with pytest.raises(GradientError, match="bias"):
        verify.gradcheck(Broken, x, w, b, y, **settings)


def test_the_fit_is_the_best_there_is() -> None:
    x, y = data(9, 80)
    s = np.random.default_rng(1).random(80) + 0.2
    found = sub_models.fit(Task(scipy.sparse.csr_array(x), y, 4, s, 0.5, settings=Settings(tol=1e-9, rounds=20)))

    def loss(theta: np.ndarray) -> float:
        value = softmax_regression.forward(x, theta[:28].reshape(4, 7), theta[28:], y, row_weight=s, l2=0.5 / s.sum())
        return float(value[0])

    best = scipy.optimize.minimize(loss, np.zeros(32), method="BFGS", options={"gtol": 1e-7})
    assert np.abs(np.concatenate([found.weight.ravel(), found.bias]) - best.x).max() <= 1e-4
    assert found.losses[-1] <= best.fun + 1e-12
    wide = np.hstack([x, np.ones((80, 1))])  # the bias as a feature: scikit-learn leaves its own bias free
    theirs = LogisticRegression(C=2.0, fit_intercept=False, tol=1e-10, max_iter=1000).fit(wide, y, s)
    assert np.abs(np.exp(found.log_p(x)) - theirs.predict_proba(wide)).max() <= 1e-6
    other = sub_models.fit(Task(x, y, 4, s, 0.6, settings=Settings(tol=1e-9, rounds=20)))  # control: another penalty
    assert np.abs(np.exp(other.log_p(x)) - theirs.predict_proba(wide)).max() > 1e-4


def test_a_class_that_a_subset_lacks_keeps_a_probability() -> None:
    x, y = data(2)
    seen = y != 3
    found = sub_models.fit(Task(x[seen], y[seen], 4))
    p = np.exp(found.log_p(x))
    assert p.shape == (60, 4) and p[:, 3].min() > 1e-4 and np.abs(p.sum(1) - 1).max() <= 1e-14
    assert p[:, 3].max() < 0.2


def test_a_start_is_where_it_is_pulled_to() -> None:
    x, y = data(3)
    start = parameters(4)
    near = sub_models.fit(Task(x, y, 4, l2=1e7, start=start))
    assert np.abs(near.weight - start[0]).max() < 1e-4
    far = sub_models.fit(Task(x, y, 4, l2=1.0, start=start))
    assert np.abs(far.weight - start[0]).max() > 1e-1


def test_early_stopping_gives_the_round_of_the_least_held_out_loss() -> None:
    x, y = data(0, 40, 30)
    other = data(1, 40, 30)
    settings = Settings(length=2, rounds=40, patience=2, tol=1e-9)
    stopped = sub_models.fit(Task(x, y, 4, l2=1e-6, held_out=(*other, None), settings=settings))
    assert len(stopped.losses) < 40 and len(stopped.held_out) == len(stopped.losses)
    assert int(np.argmin(stopped.held_out)) == len(stopped.held_out) - 3  # two more in which it did not fall
    again = softmax_regression.forward(other[0], stopped.weight, stopped.bias, other[1])[0]
    assert again == min(stopped.held_out)


@pytest.mark.parametrize("solver", descent.SOLVERS)
def test_processes_change_no_bit(solver: str, tmp_path: Path) -> None:
    settings = Settings(solver=solver, rounds=3, length=4, batch=13)
    tasks = [Task(*data(i), 4, settings=settings, name=f"m{i}") for i in range(3)]
    alone = sub_models.fit_all(tasks)
    beside = sub_models.fit_all(tasks, n_jobs=2, folder=tmp_path)
    for one, two in zip(alone, beside, strict=True):
        assert (one.weight == two.weight).all() and (one.bias == two.bias).all() and one.losses == two.losses
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m0.safetensors", "m1.safetensors", "m2.safetensors"]


@pytest.mark.parametrize("solver", descent.SOLVERS)
@pytest.mark.parametrize("writes", [1, 3])
def test_a_stopped_fit_goes_on_to_the_same_bits(
    solver: str, writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = data(4, 50)
    settings = Settings(solver=solver, rounds=6, length=3, batch=16, tol=1e-12)
    task = Task(x, y, 4, held_out=(*data(5), None), settings=settings)
    whole = sub_models.fit(task)
    assert len(whole.losses) > writes

    class Stop(Exception):
        pass

    store = sub_models.store
    left = [writes]

    def stopping(*args: Any) -> None:
        store(*args)
        left[0] -= 1
        if not left[0]:
            raise Stop

    monkeypatch.setattr(sub_models, "store", stopping)
    with pytest.raises(Stop):
        sub_models.fit(task, tmp_path)
    monkeypatch.undo()
    resumed = sub_models.fit(task, tmp_path)
    assert (resumed.weight == whole.weight).all() and resumed.losses == whole.losses
    assert resumed.held_out == whole.held_out
    before = (tmp_path / "sub_model.safetensors").read_bytes()
    assert (sub_models.fit(task, tmp_path).bias == whole.bias).all()  # a finished one is read
    assert (tmp_path / "sub_model.safetensors").read_bytes() == before


def test_a_file_of_other_data_or_a_cut_one_is_refused(tmp_path: Path) -> None:
    x, y = data(4)
    sub_models.fit(Task(x, y, 4), tmp_path)
    with pytest.raises(CheckpointError, match="other data or settings"):
        sub_models.fit(Task(x, y, 4, l2=2.0), tmp_path)
    with pytest.raises(CheckpointError, match="other data or settings"):
        sub_models.fit(Task(x, 3 - y, 4), tmp_path)
    file = tmp_path / "sub_model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="sub_model"):
        sub_models.fit(Task(x, y, 4), tmp_path)


SCRIPT = """
import sys
import numpy as np
from pymoe.pipeline import sub_models
from pymoe.pipeline.descent import Settings

def tasks():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 200))
    y = (x @ rng.standard_normal((200, 5))).argmax(1)
    settings = Settings(length=1, rounds=60, tol=1e-14)
    return [sub_models.Task(x[i::2], y[i::2], 5, settings=settings, name=f"m{i}") for i in range(2)]

if __name__ == "__main__":
    found = sub_models.fit_all(tasks(), n_jobs=2, folder=sys.argv[1])
    np.save(sys.argv[1] + "/found.npy", np.stack([m.weight for m in found]))
"""


@pytest.mark.slow
def test_a_fit_in_processes_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)

    def start(folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        here = {**os.environ, "PYTHONPATH": str(Path(pymoe.__file__).parents[1])}
        return subprocess.Popen([sys.executable, str(script), str(folder)], start_new_session=True, env=here)

    assert start(tmp_path / "whole").wait(timeout=120) == 0
    process = start(tmp_path / "killed")
    while not (tmp_path / "killed" / "m0.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "found.npy").exists()
    assert start(tmp_path / "killed").wait(timeout=120) == 0
    whole, killed = (np.load(tmp_path / name / "found.npy") for name in ("whole", "killed"))
    assert (whole == killed).all()


def test_bad_input_says_what_to_do() -> None:
    x, y = data()
    for task, error, says in [
        (Task(x[:0], y[:0], 4), DataError, "has no rows"),
        (Task(x, y, 4, l2=-1.0), ConfigError, "l2 must be"),
        (Task(x, y, 2), IndexError, "targets"),
        (Task(x, y, 4, np.zeros(60)), ConfigError, "above 0"),
        (Task(x * 1e200, y, 4), NonFiniteError, "scale the features"),
    ]:
        with pytest.raises(error, match=says), np.errstate(all="ignore"):
            sub_models.fit(task)
    with pytest.raises(ConfigError, match="solver must be"):
        Settings(solver="sgd")
    with pytest.raises(ConfigError, match="n_jobs"):
        sub_models.fit_all([Task(x, y, 4)], n_jobs=0)
    with pytest.raises(ConfigError, match="a name of its own"):
        sub_models.fit_all([Task(x, y, 4), Task(x, y, 4)])
