"""How many rows a caller may send: the generic cell rate algorithm, as arithmetic.

One number per caller, the *theoretical arrival time* in ns; no timer, no refill. Source: ITU-T I.371, GCRA.
"""

from __future__ import annotations


def take(arrival_ns: int, now_ns: int, rows: int, interval_ns: int, burst: int) -> tuple[int, int]:
    """(new arrival time, 0) if `rows` more are allowed now, else (unchanged, how long to wait in ns).

    `interval_ns` is the time that one row is worth; `burst` how many rows may come at once.
    """
    start = max(arrival_ns, now_ns)
    after = start + rows * interval_ns
    wait = after - now_ns - burst * interval_ns
    return (arrival_ns, wait) if wait > 0 else (after, 0)
