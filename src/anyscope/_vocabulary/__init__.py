"""Floor 0, vocabulary: words that the other floors speak. Knows nothing of event loops."""
