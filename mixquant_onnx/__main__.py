"""Entry point of `python -m mixquant_onnx`."""

from mixquant_onnx.cli.main import main

raise SystemExit(main())
