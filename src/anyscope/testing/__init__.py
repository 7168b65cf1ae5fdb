"""What the project itself is tested with."""
