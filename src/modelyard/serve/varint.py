"""Whole numbers as Protobuf writes them, seven bits a byte; HPACK does the same behind its prefix."""

from __future__ import annotations


def varint(number: int) -> bytes:
    """A number of 0 or more, its lowest bits first; the eighth bit of a byte says that more follow."""
    if number < 0x80:
        return bytes((number,))
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*parts, number))
