"""One command; each verb wakes one wing."""
