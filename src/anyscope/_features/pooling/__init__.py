"""The resource pool.

| module | holds |
|---|---|
| `pool` | what users see |
| `stock` | all decisions, without a single await |
| `shelf` | the idle ones: which to lend next |
| `item` | the life of one resource, in a task of its own |
| `acquire` | waiting for one |
| `waiter` | a place in the queue |
| `attempts` | when to try again after a failure |
| `tally` | what has happened, counted and told to hooks |
| `numbers` | what a pool tells of itself |
| `keeper` | the one task that watches the clock |
"""
