"""Guarded rollouts: a version gets its calls step by step, and loses them by itself when it is worse."""
