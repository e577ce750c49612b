"""The report as one self-contained HTML file. In: the summary of a run (--json). Out: text.

Needs the extra `report` (altair, vl-convert-python, jinja2). Its figures are those of `report.figures`.
"""
