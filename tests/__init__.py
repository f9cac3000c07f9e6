"""The suite: one file per behaviour; `acceptance/` runs real processes."""
