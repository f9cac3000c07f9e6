"""One module per benchmark; `run(stores, rounds=, quick=)` returns its Result."""
