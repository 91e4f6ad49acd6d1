from io import StringIO

from rich.console import Console

from core.report_tables import print_notes


def test_brackets_in_notes_are_no_markup():
    out = StringIO()
    notes = ["the first is 'Who wrote [/b]?'", "and [red] 'Who sang [bold]?'"]
    print_notes(notes, Console(file=out, width=80))
    assert out.getvalue().splitlines() == notes
