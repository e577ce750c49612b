"""How close a quantized model is to the float one, in figures and words.

In: outputs of both models on the same feeds. Out: `Quality`. A new figure goes to quality.py.
"""
