"""Measures Modelyard beside services written by hand, on this machine, with every answer checked. `make bench`."""
