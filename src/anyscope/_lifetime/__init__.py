"""Floor 1, lifetime: who owns what, until when, and in which order it ends."""
