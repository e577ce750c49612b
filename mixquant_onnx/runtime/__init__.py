"""ONNX Runtime.

In: a model and feeds. Out: outputs, of the whole network or of one layer after the other (`incremental`).
"""
