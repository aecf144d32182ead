"""Runs: one training each."""
