"""The ONNX graph, read: files, scopes, constants, and which of them are weights of which operators.

In: a ModelProto. Out: `LocatedSite` (a weight and its readers), `Feature` (its input), `Block` (parts of the network).
One more operator is one row in `operators.py`.
"""
