"""Streams.

| module | holds |
|---|---|
| `stream` | what users see |
| `operators` | `map` and all that makes a stream of another one |
| `reading` | who takes the steps, and what is around them |
| `place` | where its code runs, if not in the reader's task |
| `closing` | how it is closed, and what interrupts those who read |
| `line` | what a stream is made of: recipes, and the iterators made from them |
| `stepping` | one step inside a cancel scope |
| `stages` | the operators that need no task |
| `handoff` | items made in tasks of the scope, taken by the reader |
| `buffer` | a source in a task of its own |
| `team` | several tasks that make items for one reader |
| `mapping` | several calls at once |
| `merging` | several sources into one, one into several |
| `timing` | time-outs and rates |
| `retrying` | going on after an error |
| `checks` | checks of options |
"""
