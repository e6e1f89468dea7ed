"""How good predictions are: which files belong together, their scores, tables, and how two evaluations differ."""
