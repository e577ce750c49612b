"""Figures of a run and of a sweep. In: the summary (--json). Out: charts, which a page shows and `save` writes.

Needs the extra `report` (altair, vl-convert-python). To add a figure, add a row to `RUN_FIGURES` or `SWEEP_FIGURES`.
"""
