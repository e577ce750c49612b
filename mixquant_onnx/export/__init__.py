"""From quantized weights to a file.

In: a model, its weights and the scheme chosen for each. Out: which of them are worth storing so, in bytes of the file.
To add a form of storage, write it in `encodings/` and name it in `graph/pieces.py`; sizes follow from what it emits.
"""
