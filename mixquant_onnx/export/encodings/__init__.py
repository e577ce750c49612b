"""How codes, scales and zero points are stored in a model and decoded to a weight.

In: a quantized weight. Out: the tensors, nodes and functions that compute it (`builder.Encoded`). To add an encoding,
write `x.py` with a subclass of `storage.Storage`, and add a row in its target (`ENCODINGS`).
"""
