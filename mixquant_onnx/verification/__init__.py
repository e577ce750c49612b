"""Verification of a written model: its codes, its graph, and how close its outputs are to the float model's.

In: the float model, the written file and the quantized weights. Out: `result.Verification`, or ProofError.
A new metric of output quality goes to quality.py, a new check of the file to a file of its own, called by verify.py.
"""
