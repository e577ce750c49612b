"""ONNX Runtime: sessions, and values inside a model.

In: a ModelProto or a file, and batches. Out: outputs (`session`), or inner values part by part (`incremental`). To add
a session option, add an entry to a profile in `session.py`.
"""
