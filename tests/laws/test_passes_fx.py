from __future__ import annotations

from tests.laws.pass_laws import PassLaws, cases_of


@cases_of("fx")
class TestFx(PassLaws):
    host = "fx"
