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


def hottest_loop(text: str, multiply_add: str) -> str:
    """The innermost loop with most multiply-adds; the shortest such loop."""
    found = loops(text)
    innermost = [loop for loop in found if not any(other != loop and other in loop and multiply_add in other for other in found)]
    return max(innermost, key=lambda loop: loop.count(multiply_add))


def registers_of(text: str, mnemonic: str) -> set[str]:
    """Kinds of x86 vector registers (xmm, ymm, zmm) that instructions with this mnemonic use."""
    return {kind for line in text.splitlines() if mnemonic in line for kind in re.findall(r"%([xyz]mm)\d", line)}


def stores(text: str) -> list[str]:
    """x86 instructions that write a vector register to memory."""
    return [line for line in text.splitlines() if re.match(r"\s+vmov\w+\s+%[xyz]mm\d+, .*\(", line)]
