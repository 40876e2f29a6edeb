import os

import pytest

from sparsecc.codegen.chatter import no_chatter


def test_known_notes_are_dropped_and_the_rest_is_kept(capfd):
    with no_chatter():
        os.write(2, b"[12:00:00] executable.cc:276: Warning: Scope Saving:\n[12:00:00] a.cc:1: Warning: something else\n")
    assert capfd.readouterr().err == "[12:00:00] a.cc:1: Warning: something else\n"


def test_an_error_loses_nothing(capfd):
    with pytest.raises(KeyboardInterrupt), no_chatter():
        os.write(2, b"said before\n")
        raise KeyboardInterrupt
    os.write(2, b"said after\n")
    assert capfd.readouterr().err == "said before\nsaid after\n"
