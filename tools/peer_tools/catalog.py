"""Which quantizers are compared, at which versions and in which modes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ORT = "onnxruntime==1.31.1"
ONNX = "onnx==1.23.2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mode:
    """One way to run a quantizer; `options` reach its script as JSON."""

    label: str
    options: Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A quantizer: the script that drives it and what its environment needs, itself first."""

    name: str
    script: str
    packages: tuple[str, ...]
    modes: tuple[Mode, ...]

    @property
    def version(self) -> str:
        return self.packages[0].replace("==", " ")


def _nncf(label: str, mode: str, group: int | None = None, ratio: float | None = None) -> Mode:
    return Mode(label=label, options={"mode": mode, "group_size": group, "ratio": ratio})


ONNXSIM = Peer(
    name="onnxsim",
    script="run_onnxsim.py",
    packages=("onnxsim==0.8.1", ONNX, ORT),
    modes=(
        Mode(label="int8", options={"flags": ["--weight-only-quantize"]}),
        Mode(label="int8 blocks", options={"flags": ["--weight-only-quantize-int8-block", "--target-opset", "21"]}),
        Mode(label="int4 blocks", options={"flags": ["--weight-only-quantize-int4", "--target-opset", "21"]}),
        Mode(label="dynamic int8", options={"flags": ["--dynamic-quantize"]}),
    ),
)

PEERS = (
    Peer(
        name="onnxruntime",
        script="run_onnxruntime.py",
        packages=(ORT, ONNX, "onnx-ir==1.1.0"),
        modes=(
            Mode(label="dynamic int8", options={"dynamic": {}}),
            Mode(label="dynamic int8, channel", options={"dynamic": {"per_channel": True}}),
            Mode(label="dynamic uint8", options={"dynamic": {}, "unsigned": True}),
            Mode(label="4 bits, blocks of 32", options={"block": 32}),
            Mode(label="4 bits, blocks of 128", options={"block": 128}),
            Mode(label="4 bits, 32, Gather too", options={"block": 32, "gather": True}),
            Mode(label="4 bits, 32, the rest dynamic int8", options={"block": 32, "dynamic": {}}),
        ),
    ),
    ONNXSIM,
    Peer(
        name="nncf",
        script="run_nncf.py",
        packages=("nncf==3.4.0", ONNX, ORT),
        modes=(
            _nncf("int8 asym", "INT8_ASYM"),
            _nncf("int8 sym", "INT8_SYM"),
            _nncf("int4 sym, 32", "INT4_SYM", 32),
            _nncf("int4 asym, 32", "INT4_ASYM", 32),
            _nncf("int4 asym, 128", "INT4_ASYM", 128),
            _nncf("int4 asym, 32, 80 %", "INT4_ASYM", 32, 0.8),
            _nncf("int4 asym, 32, 50 %", "INT4_ASYM", 32, 0.5),
        ),
    ),
    Peer(
        name="quantization-rs",
        script="run_quantization_rs.py",
        packages=("quantization-rs==0.10.0",),
        modes=(
            Mode(label="8 bits", options={"bits": 8}),
            Mode(label="8 bits, channel", options={"bits": 8, "per_channel": True}),
            Mode(label="4 bits", options={"bits": 4, "native_int4": True}),
            Mode(label="4 bits, channel", options={"bits": 4, "native_int4": True, "per_channel": True}),
        ),
    ),
    Peer(
        name="shrink-ray",
        script="run_shrink_ray.py",
        packages=("onnx-shrink-ray==0.0.11", ONNX, ORT),
        modes=(
            Mode(label="8 bits", options={"flags": []}),
            Mode(label="8 bits, channel", options={"flags": ["--per-channel"]}),
        ),
    ),
)
