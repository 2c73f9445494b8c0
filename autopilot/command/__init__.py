"""A run without Python: a command that measures, and the module that is made of it."""
