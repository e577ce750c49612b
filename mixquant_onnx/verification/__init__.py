"""Verification of a written model: its codes, its graph, and the quality of its outputs.

In: the float model, the written file and the quantized weights. Out: `result.Verification`, or ProofError. To add a
metric of output quality, extend `quality.py`; to add a check of the file, add a file and call it in `verify.py`.
"""
