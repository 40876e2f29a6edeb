from __future__ import annotations

from sparsecc.report.ledger import Entry, Ledger


def test_what_is_read_off() -> None:
    ledger = Ledger()
    ledger.add(
        [
            Entry(step="prune", site="a", done="4x1 at 0.5", pattern="4x1", stored=0.5),
            Entry(step="prune", site="b", refused="too small"),
            Entry(step="pack", site="a", refused="no zeros"),
            Entry(step="quantize", site="a", refused="not float"),
            Entry(step="quantize", site="b", done="int8"),
        ]
    )
    assert (ledger.deeds("a"), ledger.last("a"), ledger.reason("a")) == ("prune: 4x1 at 0.5", "4x1 at 0.5", "no zeros")
    assert ledger.refusals("a") == ("pack: no zeros", "quantize: not float")
    assert (ledger.deeds("b"), ledger.reason("b")) == ("quantize: int8", "")  # taken after all
    assert ledger.refusals("b") == ("prune: too small",)
    asked = ledger.asked("a")
    assert asked is not None and (asked.pattern, asked.stored) == ("4x1", 0.5)
    assert ledger.asked("b") is None and ledger.deeds("c") == ledger.last("c") == ledger.reason("c") == ""
    assert ledger.sites() == {"a", "b"}
