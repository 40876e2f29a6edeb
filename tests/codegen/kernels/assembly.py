"""Reads generated assembly: the loop in which the time goes, and what is in it."""

from __future__ import annotations

import re


def hottest_loop(text: str, multiply_add: str) -> str:
    """The instructions from a label to the jump back to it, with most multiply-adds; the shortest such loop."""
    lines = text.splitlines()
    labels = {match[1]: i for i, line in enumerate(lines) if (match := re.match(r"(\.L\w+):", line))}
    loops = []
    for end, line in enumerate(lines):
        jump = re.match(r"\s+(?:j\w+|b\S*|cbnz\s+\w+,|tbnz.*,)\s+(\.L\w+)", line)
        if jump and labels.get(jump[1], end) < end:
            loops.append("\n".join(lines[labels[jump[1]] : end]))
    innermost = [loop for loop in loops if not any(other != loop and other in loop and multiply_add in other for other in loops)]
    return max(innermost, key=lambda loop: loop.count(multiply_add))


def registers_of(text: str, mnemonic: str) -> set[str]:
    """Kinds of x86 vector registers (xmm, ymm, zmm) that instructions with this mnemonic use."""
    return {kind for line in text.splitlines() if mnemonic in line for kind in re.findall(r"%([xyz]mm)\d", line)}
