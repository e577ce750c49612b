"""run_quantization_rs.py OPTIONS IN OUT."""

from __future__ import annotations

import json
import sys

import quantize_rs  # type: ignore[import-not-found]

if __name__ == "__main__":
    quantize_rs.quantize(sys.argv[2], sys.argv[3], **json.loads(sys.argv[1]))
