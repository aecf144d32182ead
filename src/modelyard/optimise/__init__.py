"""The workshop where models are converted, proven and advised on; runs in jobs only."""
