import pytest

from athena.cli.words import columns, one_line, without_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://mac:8080/v1", "http://mac:8080/v1"),
        ("http://bob:pa55@mac:8080/v1", "http://mac:8080/v1"),
        ("https://bob@mac", "https://mac"),
        ("http://bob:p@55@mac", "http://mac"),
        ("from http://a:b@x to http://c:d@y/z@1", "from http://x to http://y/z@1"),
        ("mail bob@example.org", "mail bob@example.org"),
    ],
)
def test_credentials_are_left_out_of_addresses(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_a_text_is_one_line_that_a_terminal_can_be_shown() -> None:
    assert one_line(" It is\n\tfour.\x1b[2J\r\n") == "It is four. [2J"
    assert one_line("It is four.", 6) == "It is…"
    assert one_line("It is", 5) == "It is"


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert columns([("A", "LONG", "C"), ("aaa", "b", "")]) == ["A    LONG  C", "aaa  b"]
