"""Batch prediction: a table in, a table out, as a job that may be killed and goes on."""
