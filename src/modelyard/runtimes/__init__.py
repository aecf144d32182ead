"""One loaded version, whatever framework made it."""
