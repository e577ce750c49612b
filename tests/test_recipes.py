"""docs/recipes.md: its blocks, run as they stand, and the quantized files on held-out rows."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import decibels
from conftest import ROOT
from onnxruntime import InferenceSession

from mixquant_onnx.cli.main import main

PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf8")
PART = re.compile(r"^#+ ([^\n]*)$|^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DYNAMO, TORCHSCRIPT = "torch.onnx.export with dynamo", "torch.onnx.export through TorchScript"


def blocks(heading: str, language: str) -> list[str]:
    """The blocks of a language under a heading of the page."""
    found, under = [], ""
    for part in PART.finditer(PAGE):
        if part[2] is None:
            under = part[1]
        elif (under, part[2]) == (heading, language):
            found.append(part[3])
    assert found, f"the page has no {language} under {heading}"
    return found


def missing_package(name: str) -> None:
    """Skip where a package is not installed; nothing is imported here: each recipe runs in a process of its own."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install 'mixquant-onnx[recipes]'")


def run_python(code: str, folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf8"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def size(folder: Path, name: str) -> int:
    """Bytes of a model with what lies beside it."""
    return sum(file.stat().st_size for file in folder.glob(f"{name}.onnx*"))


def answers(path: Path, rows: Path, like: np.ndarray) -> Any:
    """The output of a file that has the shape of `like`."""
    session = InferenceSession(path)
    outputs: list[Any] = session.run(None, dict(np.load(rows)))
    return next(output for output in outputs if np.shape(output) == like.shape)


@pytest.mark.parametrize(
    ("headings", "needs"),
    [
        pytest.param(("PyTorch", DYNAMO), ("torch", "onnxscript"), marks=pytest.mark.slow),
        pytest.param(("PyTorch", TORCHSCRIPT), ("torch",), marks=pytest.mark.slow),
        (("scikit-learn",), ("skl2onnx",)),
        pytest.param(("Keras 3",), ("keras", "torch", "onnxscript"), marks=pytest.mark.slow),
        pytest.param(("JAX",), ("jax2onnx",), marks=pytest.mark.slow),
    ],
    ids=["dynamo", "torchscript", "sklearn", "keras", "jax"],
)
def test_a_model_of_a_framework_keeps_its_answers_in_a_third_of_the_bytes(
    headings: Sequence[str], needs: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("sklearn", *needs):
        missing_package(package)
    run_python("\n".join(block for heading in headings for block in blocks(heading, "python")), tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line) for block in blocks("Quantize", "sh") for line in block.splitlines()]
    assert len(lines) == 2
    for command, *arguments in lines:
        assert command == "mixquant-onnx" and main(arguments) == 0
    by_command = Path("small.onnx").read_bytes()
    run_python(blocks("Quantize", "python")[0], tmp_path)
    assert Path("small.onnx").read_bytes() == by_command
    framework = dict(np.load("framework.npz"))
    exported, made = (
        answers(tmp_path / name, tmp_path / "rows.npz", framework["outputs"]) for name in ("model.onnx", "small.onnx")
    )
    right = {
        name: float(np.mean(outputs.argmax(axis=1) == framework["labels"]))
        for name, outputs in (("framework", framework["outputs"]), ("quantized", made))
    }
    bytes_ = size(tmp_path, "model"), size(tmp_path, "small")
    print(headings[-1], *bytes_, f"{decibels(framework['outputs'], made):.1f} dB", right)
    assert decibels(framework["outputs"], exported) > 100
    assert decibels(framework["outputs"], made) > 50
    assert right["framework"] > 0.85 and abs(right["quantized"] - right["framework"]) <= 0.01
    assert bytes_[1] < bytes_[0] / 3


def estimators() -> dict[str, Any]:
    """The estimators of the page's table, by the names that it gives them."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    from sklearn import (
        cluster,
        cross_decomposition,
        decomposition,
        discriminant_analysis,
        ensemble,
        naive_bayes,
        neighbors,
        neural_network,
        pipeline,
        svm,
        tree,
    )

    made = [
        neural_network.MLPClassifier((128,), max_iter=5), decomposition.PCA(), decomposition.TruncatedSVD(32),
        cluster.KMeans(100, n_init=1, max_iter=5), naive_bayes.BernoulliNB(), naive_bayes.MultinomialNB(),
        linear_model.LogisticRegression(), svm.LinearSVC(), discriminant_analysis.LinearDiscriminantAnalysis(),
        svm.SVC(), tree.DecisionTreeClassifier(), ensemble.RandomForestClassifier(10),
        ensemble.GradientBoostingClassifier(n_estimators=2), neighbors.KNeighborsClassifier(),
        naive_bayes.GaussianNB(), linear_model.Ridge(), linear_model.LinearRegression(),
        cross_decomposition.PLSRegression(10),
    ]  # fmt: skip
    both = pipeline.make_pipeline(decomposition.PCA(), linear_model.LogisticRegression())
    return {type(one).__name__: one for one in made} | {"PCA before LogisticRegression": both}


@pytest.mark.slow
def test_estimators_without_weight_tensors_end_with_the_code_that_the_page_tells(tmp_path: Path) -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    told = {
        name: int(code)
        for names, code in re.findall(r"^\| ([\w ,]+?) \| (\d) \|", PAGE, re.MULTILINE)
        for name in names.split(", ")
    }
    known = estimators()
    assert set(known) == set(told) and set(told.values()) == {0, 7}
    from sklearn.datasets import load_digits

    x, labels = load_digits(return_X_y=True)
    x = x.astype(np.float32)
    found = {}
    for name, estimator in known.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            onnx.save(skl2onnx.to_onnx(estimator.fit(x, labels), x[:1]), tmp_path / f"{name}.onnx")
        command = [tmp_path / f"{name}.onnx", tmp_path / f"{name}.small.onnx", "--qem", "2", "--data-free", "-q"]
        found[name] = main([str(argument) for argument in command])
    assert found == told
