"""Every figure of the report: tables or arrays in, one matplotlib Figure out. No paths, no pyplot,
no state.

`style` holds the look and the age brackets; `cohort`, `accuracy`, `anatomy` and `effects` follow the road.
"""
