"""Plain git mechanics: objects, refs, notes, working files, worktrees.

The only package that imports pygit2 or calls the `git` command line. It knows nothing about
experiments or epochs. Object ids are 40-hex `str`; names of files are `str` in the file system's
encoding, so that a name that is not UTF-8 survives; every error is one of `autopilot.errors`.
"""
