"""Quantization as a step of other tools' pipelines, on their own representation of a model.

In: an onnx_graphsurgeon Graph or an onnx_ir Model. Out: the same, quantized and verified. One file for each tool.
"""
