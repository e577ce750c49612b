"""What an ONNX model says: its files, scopes, weights, the inputs that weights meet, and the operators that are known.

In: a path or a ModelProto. Out: `Loaded`, and `LocatedSite` for each weight. For one more operator add a row in
`operators.py`. Nothing here writes a quantized form: that is `export`.
"""
