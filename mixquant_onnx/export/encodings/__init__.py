"""How codes, scales and zero points are stored in a model and turned into a weight again.

In: a quantized weight. Out: tensors, nodes and functions that give it (`builder.Encoded`).
To add an encoding, write `x.py` with a subclass of `storage.Storage`, and give it a row in its target (`ENCODINGS`).
"""
