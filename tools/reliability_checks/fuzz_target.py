"""A coverage-guided fuzz target for atheris: bytes through load, plan, rewrite and execution without sessions.

python fuzz_target.py CORPUS_FOLDER [options of libFuzzer]; an error that is not of the package ends it.
"""

from __future__ import annotations

import sys
from pathlib import Path

for place in ("", "tests", "tools"):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / place))

import atheris  # noqa: E402

with atheris.instrument_imports(include=["mixquant_onnx"]):
    import mixquant_onnx as mq
    from mixquant_onnx.api import quantize
    from mixquant_onnx.model.files import load

FILE = Path(sys.argv[1]) / "input.onnx"


def one(data: bytes) -> None:
    """One input: the first byte chooses the width and the target."""
    if len(data) < 2:
        return
    FILE.write_bytes(data[1:])
    bits, target = 2 + data[0] % 7, ("ort", "qdq")[data[0] >> 7]
    try:
        quantize(load(FILE).model, bits=[bits], target=target, min_size=1, data_free=True, verify=False)
    except (mq.MixquantError, MemoryError):
        return


if __name__ == "__main__":
    atheris.Setup(sys.argv[1:], one)
    atheris.Fuzz()
