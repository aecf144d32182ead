"""Pieces of queued work."""
