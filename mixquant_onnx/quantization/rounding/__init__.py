"""Codes of a weight on given scales and zero points.

In: a `Problem` (second moments of the inputs), or moments for `bias_corrected`. Out: levels or codes. Rows with
different inputs (the groups of a Conv) are one batch. To add a method, add a file with `solve(problem)`, and a row in
`quantization/methods.py`.
"""
