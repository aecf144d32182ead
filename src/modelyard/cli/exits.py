"""What the command's exit status means; scripts may rely on it."""

from enum import IntEnum


class Exit(IntEnum):
    """0 is success; everything else says what kind of failure it was."""

    OK = 0
    FAILED = 1
    USAGE = 2  # argparse's own
    PARTLY_REFUSED = 3
    UNREACHABLE = 4
