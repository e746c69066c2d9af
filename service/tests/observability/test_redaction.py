"""What a text may show in a log."""

import base64
import string
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from athena.observability.redaction import SHOWN_CHARACTERS, redact

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7\nq83vEjRW\n-----END RSA PRIVATE KEY-----"
PGP = "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQOYBF\n-----END PGP PRIVATE KEY BLOCK-----"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJlLW9mLXRoaXM"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("write to alice.b+spam@mail.example.co.uk, please", "write to [e-mail], please"),
        ("<müller@straße.example>", "<[e-mail]>"),
        ("call +49 (30) 901820-15 now", "call [phone] now"),
        ("call 0049 30 901820 now", "call [phone] now"),
        ("call 030/901820 now", "call [phone] now"),
        ("call (030) 90 18 20 now", "call [phone] now"),
        ("call 0171-2345678", "call [phone]"),
        ("call (212) 555-0143 or 212.555.0143", "call [phone] or [phone]"),
        ("card 4111 1111 1111 1111, ok", "card [card], ok"),
        ("card 4111-1111-1111-1111, ok", "card [card], ok"),
        ("card 378282246310005.", "card [card]."),
        ("to DE89 3704 0044 0532 0130 00 and then", "to [iban] and then"),
        ("to de89370400440532013000 then", "to [iban] then"),
        ("to BE68 5390 0754 7034 from here", "to [iban] from here"),
        ("to GB29-NWBK-6016-1331-9268-19.", "to [iban]."),
        ("to MT84MALT011000012345MTLCAST001S!", "to [iban]!"),
        (f"key:\n{PEM}\nthat is it", "key:\n[private key]\nthat is it"),
        (f"{PGP} end", "[private key] end"),
        (PEM[:60], "[private key]"),
        ("Authorization: Bearer abc.def-123456", "Authorization: Bearer [token]"),
        ("curl -H 'X-API-Key: s3cr3t-value' x", "curl -H 'X-API-Key: [token]' x"),
        ('{"password": "hunter2", "a": 1}', '{"password": "[token]", "a": 1}'),
        ("my password is hunter2 and", "my password is [token] and"),
        ("Mein Passwort lautet Sommer2026!", "Mein Passwort lautet [token]"),
        ("API_KEY=abcdef", "API_KEY=[token]"),
        ("client_secret = abcdef", "client_secret = [token]"),
        ("bearer 0123456789abcdef", "bearer [token]"),
        ("psql postgresql://athena:pa55word@db.example/athena", "psql postgresql://[token]/athena"),
        (f"cookie {JWT}", "cookie [token]"),
        ("use sk-athena-Zm9vYmFyYmF6cXV4Zm9v", "use [token]"),
        ("use sk-ant-api03-abcdefghijkl", "use [token]"),
        ("use ghp_0123456789abcdefABCDEF0123456789abcd", "use [token]"),
        ("use glpat-abcdefghij0123456789", "use [token]"),
        ("use xoxb-123456789012-abcdef", "use [token]"),
        ("use AKIAIOSFODNN7EXAMPLE", "use [token]"),
        ("use AIzaSyA-0123456789abcdefghijklmnopqrstu", "use [token]"),
        ("use hf_abcdefghijklmnopqrstuvwxyz", "use [token]"),
        ("sha " + "0123456789abcdef" * 4, "sha [token]"),
    ],
)
def test_what_identifies_people_or_opens_doors_is_replaced_by_its_kind(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "What is 2+2?",
        "Why is the sky blue? It has been 3.14159 for 2,000 years; see chapter 12.",
        "def f(x: int) -> int:\n    return x * 1_000_000\n",
        "Meet me @ noon; version 1.2.3, 2026-11-26, 18:45, port 11434, 127.0.0.1.",
        "at10 then they came with fifteen others",
        "The secretary of the passwordless society keeps tokens.",
        "-----BEGIN CERTIFICATE-----",
    ],
)
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


words = st.text(string.ascii_letters + " \n,;äß", max_size=80)
alphabet = string.ascii_letters + string.digits
emails = st.emails().filter(lambda address: "[" not in address)
ibans = st.sampled_from(
    ["DE89370400440532013000", "FR1420041010050500013M02606", "NO9386011117947", "CH9300762011623852957"]
)
grouped = ibans.map(lambda iban: " ".join(iban[place : place + 4] for place in range(0, len(iban), 4)))
cards = st.text(string.digits, min_size=13, max_size=19)
phones = st.builds("+{} {}".format, st.integers(1, 99), st.text(string.digits, min_size=7, max_size=11))
prefixed = st.builds(
    lambda prefix, rest: prefix + rest,
    st.sampled_from(["sk-", "ghp_", "glpat-", "hf_", "npm_", "xoxb-", "github_pat_"]),
    st.text(alphabet, min_size=12, max_size=60),
)
bearers = st.text(alphabet + "._-", min_size=8, max_size=80).map(lambda token: f"Bearer {token}")
keys = st.binary(min_size=24, max_size=2000).map(
    lambda key: f"-----BEGIN EC PRIVATE KEY-----\n{base64.encodebytes(key).decode()}-----END EC PRIVATE KEY-----"
)
secrets = st.one_of(emails, ibans, grouped, cards, phones, prefixed, bearers, keys)


@settings(deadline=None)
@given(before=words, secret=secrets, after=words)
def test_no_secret_is_shown_whatever_stands_around_it(before: str, secret: str, after: str) -> None:
    known = secret.removeprefix("Bearer ")
    assume(known not in before + after)
    assert known not in redact(f"{before} {secret} {after}")


@settings(deadline=None)
@given(before=st.integers(0, 1100), secret=secrets)
def test_no_part_of_a_secret_across_the_cut_is_shown(before: int, secret: str) -> None:
    text = "." * before + " " + secret + " the end"
    shown = redact(text, characters=1000)
    known = secret.removeprefix("Bearer ")
    assert known[:12] not in shown
    assert len(shown) < 1100


@settings(deadline=None)
@given(text=st.text(max_size=3000), characters=st.integers(1, 1500))
def test_any_text_is_cut_to_its_length(text: str, characters: int) -> None:
    shown = redact(text, characters=characters)
    # Each secret that is replaced becomes at most the longest name.
    assert len(shown) <= characters * 5 + 60
    if len(text) <= characters and not any(mark in shown for mark in ("[token]", "[e-mail]", "[iban]", "[card]")):
        assert "more characters" not in shown


@settings(deadline=None)
@given(first=secrets, second=secrets)
def test_several_secrets_are_all_replaced(first: str, second: str) -> None:
    shown = redact(f"{first} and {second}")
    assert first.removeprefix("Bearer ") not in shown
    assert second.removeprefix("Bearer ") not in shown


def test_the_end_says_how_much_was_left_out() -> None:
    assert redact("a b " * 1000) == ("a b " * 1000)[:SHOWN_CHARACTERS] + "… [3000 more characters]"


@pytest.mark.parametrize(
    "piece",
    ["a", "a1", "1", "1 ", "a.", "@", "a@", "a@b.", "eyJ", "-----BEGIN PRIVATE KEY-----", "de11 ", "+1 ", "://a:"],
)
def test_ten_times_as_long_a_text_takes_about_ten_times_as_long(piece: str) -> None:
    short = min(seconds_for(piece, 1_000_000) for _ in range(3))
    assert seconds_for(piece, 10_000_000) < 40 * max(short, 0.005)  # 100 where a search is quadratic


def seconds_for(piece: str, length: int) -> float:
    text = piece * (length // len(piece))
    began = time.process_time()
    redact(text)
    return time.process_time() - began
