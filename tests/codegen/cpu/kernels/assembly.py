"""Reads generated assembly: the loop in which the time goes, and what is in it."""

from __future__ import annotations

import re


def loops(text: str) -> list[str]:
    """The instructions from each label to each jump back to it."""
    lines = text.splitlines()
    labels = {match[1]: i for i, line in enumerate(lines) if (match := re.match(r"(\.L\w+):", line))}
    found = []
    for end, line in enumerate(lines):
        jump = re.match(r"\s+(?:j\w+|b\S*|cbnz\s+\w+,|tbnz.*,)\s+(\.L\w+)", line)
        if jump and labels.get(jump[1], end) < end:
            found.append("\n".join(lines[labels[jump[1]] : end]))
    return found


def innermost_loops(text: str, multiply_add: str) -> list[str]:
    """Those with multiply-adds and no such loop inside."""
    found = [loop for loop in loops(text) if multiply_add in loop]
    return [loop for loop in found if not any(other != loop and other in loop for other in found)]


def hottest_loop(text: str, multiply_add: str) -> str:
    """The innermost loop with most multiply-adds; the shortest such loop."""
    return max(innermost_loops(text, multiply_add), key=lambda loop: loop.count(multiply_add))


def registers_of(text: str, mnemonic: str) -> set[str]:
    """Kinds of x86 vector registers (xmm, ymm, zmm) that instructions with this mnemonic use."""
    return {kind for line in text.splitlines() if mnemonic in line for kind in re.findall(r"%([xyz]mm)\d", line)}


def stores(text: str) -> list[str]:
    """x86 instructions that write a vector register to memory."""
    return [line for line in text.splitlines() if re.match(r"\s+vmov\w+\s+%[xyz]mm\d+, .*\(", line)]


def loads(text: str) -> list[str]:
    """x86 instructions that fill a vector register of several values from memory, by themselves or as an operand."""
    return [
        line for line in text.splitlines() if re.search(r"\(.*\).*, %[xyz]mm\d", line) and "broadcast" not in line and "{1to" not in line
    ]
