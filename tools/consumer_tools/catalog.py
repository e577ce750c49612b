"""Runtimes and rewriting tools that read ONNX files, and what each needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True, slots=True)
class Consumer:
    """Something that reads a file.

    `installs`: arguments of `pip install` (of `npm install` for a script of node), one call each; none: what runs this
    tool has it. `script`: the child beside this file. `rewrites`: it writes a model, which ONNX Runtime then runs.
    """

    name: str
    script: str
    installs: tuple[tuple[str, ...], ...] = ()
    rewrites: bool = False

    @property
    def on_node(self) -> bool:
        """Whether node runs it."""
        return self.script.endswith(".mjs")


CONSUMERS = (
    Consumer(name="onnxruntime", script="run_onnxruntime.py"),
    Consumer(name="onnxruntime-web", script="run_web.mjs", installs=(("onnxruntime-web",),)),
    Consumer(name="onnx ReferenceEvaluator", script="run_reference.py"),
    Consumer(name="OpenVINO", script="run_openvino.py", installs=(("openvino", "numpy"),)),
    Consumer(name="tract", script="run_tract.py", installs=(("tract", "numpy"),)),
    Consumer(name="OpenCV dnn", script="run_opencv.py", installs=(("opencv-python-headless", "numpy"),)),
    Consumer(name="TVM", script="run_tvm.py", installs=(("apache-tvm", "onnx", "numpy"),)),
    Consumer(name="IREE", script="run_iree.py", installs=(("iree-base-compiler[onnx]", "iree-base-runtime", "numpy"),)),
    Consumer(name="ncnn", script="run_ncnn.py", installs=(("ncnn", "numpy"), ("--no-deps", "pnnx"))),
    Consumer(name="MNN", script="run_mnn.py", installs=(("MNN", "numpy"),)),
    Consumer(name="tinygrad", script="run_tinygrad.py", installs=(("tinygrad", "numpy"),)),
    Consumer(
        name="onnxslim", script="run_onnxslim.py", installs=(("onnxslim", "onnxruntime", "numpy"),), rewrites=True
    ),
    Consumer(name="onnxsim", script="run_onnxsim.py", installs=(("onnxsim", "onnxruntime", "numpy"),), rewrites=True),
)
