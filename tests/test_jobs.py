"""Layers solved at the same time: in processes, on a cluster, and what becomes of them when a run ends early."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest
from cases import text, weight
from joblib.externals.loky import get_reusable_executor

import mixquant_onnx as mq
from mixquant_onnx.data.calibration import Calibration
from mixquant_onnx.runtime.session import RuntimeFailure

ROOT = Path(__file__).resolve().parent.parent
CNN = ROOT / "models" / "digits_cnn"
MODEL = text(
    """g (float[N,64] x, float[64,64] a, float[64,64] b, float[64,64] c, float[64,64] d, float[64,64] e)
    => (float[N,64] y) {
        h = MatMul (x, a) i = Relu (h) j = MatMul (i, b) k = Relu (j) l = MatMul (k, c) m = MatMul (l, d)
        y = MatMul (m, e) }""",
    a=weight(64, 64, seed=0), b=weight(64, 64, seed=1), c=weight(64, 64, seed=2), d=weight(64, 64, seed=3),
    e=weight(64, 64, seed=4),
)  # fmt: skip
LAYERS = 5
ROWS = {"x": np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)}


@pytest.fixture(autouse=True)
def _no_processes_afterwards() -> Iterator[None]:
    yield
    get_reusable_executor().shutdown(wait=True, kill_workers=True)


def quantized(**options: Any) -> bytes:
    made = mq.quantize(MODEL, avg_bits=4, data=ROWS, verify=False, **options)
    return bytes(made.model.SerializeToString(deterministic=True))


@pytest.fixture(scope="module")
def by_one_job() -> bytes:
    return quantized()


@pytest.mark.parametrize("jobs", [2, -1])
def test_any_number_of_jobs_makes_the_same_file(jobs: int, by_one_job: bytes) -> None:
    assert quantized(jobs=jobs) == by_one_job


@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
def test_a_backend_of_the_caller_makes_the_same_file(backend: str, by_one_job: bytes) -> None:
    """`multiprocessing` returns no generator, and neither does Ray's backend, which is built on it."""
    with joblib.parallel_config(backend=backend, n_jobs=2):
        assert quantized() == by_one_job


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two worker processes of Dask."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=logging.CRITICAL
    ) as made:
        yield made


def solved_on(cluster: Any) -> int:
    """Layers that workers of the cluster have solved."""
    log = [(str(key), end) for key, _, end, *_ in cluster.scheduler.transition_log]
    return sum(key.startswith("batch_of__solve") and end == "memory" for key, end in log)


def test_the_example_of_the_documentation_runs_on_a_dask_cluster(
    cluster: Any, by_one_job: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = (ROOT / "docs" / "cluster.md").read_text(encoding="utf8").split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    onnx.save(MODEL, "in.onnx")
    np.savez("calib.npz", x=ROWS["x"])
    exec(example.replace("tcp://scheduler:8786", cluster.scheduler_address), {})
    assert solved_on(cluster) == LAYERS
    assert onnx.load("out.onnx").SerializeToString(deterministic=True) == by_one_job


@pytest.mark.parametrize("kept", [0, 3])
def test_a_model_that_does_not_run_is_handled_as_with_one_job(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Calibration.observe

    def failing(self: Calibration, *given: Any) -> Iterator[Any]:
        yield from islice(plain(self, *given), kept)
        raise RuntimeFailure("does not run")

    monkeypatch.setattr(Calibration, "observe", failing)
    told = []
    for jobs in (1, 2):
        with pytest.raises(RuntimeFailure) as failure:
            quantized(jobs=jobs)
        told.append(str(failure.value))
    assert told == ["does not run"] * 2


STOPPED = """
import os, signal, sys
from pathlib import Path
from mixquant_onnx.cli.main import main
from mixquant_onnx.planning import solved_table

keep = solved_table._keep

def read(path):
    # A process may end between its listing and this.
    try:
        return path.read_text()
    except OSError:
        return ""

def workers():
    stats = [(int(path.parent.name), read(path)) for path in Path("/proc").glob("[0-9]*/stat")]
    own = [number for number, stat in stats if stat.rpartition(")")[2].split()[1:2] == [str(os.getpid())]]
    return [number for number in own if "popen_loky" in read(Path(f"/proc/{number}/cmdline"))]

def stop(*given):
    how = sys.argv[1]
    if how == "a signal":
        os.killpg(0, signal.SIGINT)
    if how == "a killed worker":
        # None is left where the run has noticed, and keeps what was solved before.
        for worker in workers()[:1]:
            os.kill(worker, signal.SIGKILL)
    keep(*given)

solved_table._keep = stop
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize(
    ("how", "code", "told"),
    [
        ("a signal", 130, "interrupted"),
        ("a killed worker", 1, "use fewer --jobs"),
    ],
)
def test_a_run_that_ends_early_leaves_nothing(how: str, code: int, told: str, tmp_path: Path) -> None:
    """Neither processes nor temporary folders, and one line."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    places = {**os.environ, "TMPDIR": str(folder), "JOBLIB_TEMP_FOLDER": str(folder)}
    options = ["--avg-bits", "4", "--data", str(CNN / "calib.npz"), "--jobs", "2"]
    run = subprocess.Popen(
        [sys.executable, "-c", STOPPED, how, CNN / "model.onnx", tmp_path / "out.onnx", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=places, start_new_session=True,
    )  # fmt: skip
    printed, errors = run.communicate(timeout=100)
    assert run.returncode == code, errors
    assert told in errors and errors.count("\n") == 1 and not printed
    assert ended(run.pid)
    assert not any(folder.glob("*joblib*")) and not any(folder.glob("*loky*"))
    assert [path for path in tmp_path.iterdir() if path != folder] == []


def ended(group: int, seconds: float = 10.0) -> bool:
    """Whether no process of a group is left before long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
