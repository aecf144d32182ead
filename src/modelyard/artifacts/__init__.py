"""The shelf: content-addressed, verified, without code inside."""
