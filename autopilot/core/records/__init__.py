"""What is written down of a run: its records, their history, and what is learned from them."""
