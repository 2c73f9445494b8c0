"""The records of a run: what is written down, its history, its messages and its costs."""
