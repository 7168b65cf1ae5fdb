"""Polls: a function called again and again.

| module | holds |
|---|---|
| `poll` | what users see |
| `course` | all decisions, without a single await |
| `pilot` | the one task of a poll, which does what is decided |
| `bell` | what that task waits for |
| `flight` | a run, a flight, and who asked for one |
| `timing` | when the next fetch is due |
| `tally` | what has happened, counted, logged and told to hooks |
"""
