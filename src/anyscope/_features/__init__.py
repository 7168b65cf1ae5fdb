"""Floor 2, features: each takes an owner of floor 1, and knows nothing of the others' insides."""
