"""The workshop where models learn; runs in jobs only."""
