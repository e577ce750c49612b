"""python -m mixquant_onnx"""

from mixquant_onnx.cli import main

raise SystemExit(main())
