"""The library's keyword arguments in the command line's words."""

from __future__ import annotations

import pytest

from modfill.model import config
from modfill.outputs import naming
from modfill.terminal import arguments
from modfill.terminal.arguments import build_parser
from modfill.terminal.flags import _KEYWORDS, in_flags


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("overwrite it (overwrite=True) or stop", "overwrite it (--overwrite) or stop"),
        ("set assume_aligned=True if so", "set --assume-aligned if so"),
        ("set jobs=1", "set --jobs 1"),
        ("give naming='nnunet' and link=True", "give --naming nnunet and --link"),
        ("give channels=['t1n', 't1c']", "give --channels t1n t1c"),
        ("case overwrite=7: other=True stays, a=b", "case --overwrite 7: other=True stays, a=b"),
        ("nothing to do", "nothing to do"),
    ],
)
def test_keywords_become_flags(message: str, expected: str) -> None:
    assert in_flags(message) == expected


def test_every_flag_is_one_of_the_command_line() -> None:
    commands = next(action.choices for action in build_parser()._actions if isinstance(action.choices, dict))
    known = {name for command in commands.values() for action in command._actions for name in action.option_strings}
    known.add("--channels")  # of modfill nnunet
    assert {f"--{name.replace('_', '-')}" for name in _KEYWORDS} <= known


def test_the_choices_of_the_command_line_are_those_of_the_library() -> None:
    assert tuple(config.PRESETS) == arguments.PRESETS
    assert arguments.STAGES == config.STAGES
    assert arguments.NAMINGS == naming.NAMINGS
