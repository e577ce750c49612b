"""From quantized weights to a file.

In: a model, its quantized weights and the options of the file. Out: a rewritten model, and its size before it is
written. To add an encoding or a runtime target, see `encodings/` and `targets/`; sizes follow from the encoding.
"""
