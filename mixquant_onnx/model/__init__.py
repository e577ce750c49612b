"""The ONNX graph, parsed: files, scopes, constants, and which constants are weights of which operators.

In: a ModelProto. Out: `LocatedWeight` (a weight and its readers), `Feature` (its input), `Block` (parts of the
network).
To add an operator, add one row in `operators.py`.
"""
