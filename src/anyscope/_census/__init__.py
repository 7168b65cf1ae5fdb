"""The demo: a census of a tree of Python source files, taken in worker threads under one scope."""
