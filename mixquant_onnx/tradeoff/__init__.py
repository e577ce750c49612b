"""Many plans from one measurement: size against quality.

In: a search with costs, and numbers of bits or QEMs. Out: a `Point` a plan, and the `Reference` that they
are compared with.
"""
