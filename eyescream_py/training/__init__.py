"""The loop of a run, one trainer per file, its folder and its logs."""
