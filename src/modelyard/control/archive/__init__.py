"""Versions that leave this home in a file or arrive in one, and artifacts that nothing needs any more."""
