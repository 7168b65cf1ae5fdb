"""Floor 3, face: the thin methods through which a user reaches the features."""
