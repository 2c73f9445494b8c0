"""The prompt: facts on a run, items as examples, the text made of them, and structured answers."""
