"""Streams.

| module | holds |
|---|---|
| `stream` | what users see |
| `reading` | who reads, what interrupts it, and how it is closed |
| `line` | what a stream is made of: recipes, and the iterators made from them |
| `stepping` | one step inside a cancel scope |
| `stages` | the operators that need no task |
| `handoff` | items made in tasks of the scope, taken by the reader |
| `buffer` | a source in a task of its own |
| `mapping` | several calls at once |
| `merging` | several sources into one, one into several |
| `timing` | time-outs and rates |
| `retrying` | going on after an error |
| `checks` | checks of options |
"""
