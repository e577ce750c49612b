"""ONNX Runtime: sessions, and values inside a model.

In: a ModelProto or a file, and feeds. Out: outputs (`session`), or inner values part by part (`incremental`). Another
session option is one more entry of a profile in `session.py`.
"""
