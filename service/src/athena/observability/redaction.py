"""What a text may show in a log: a bounded piece of it, without what identifies people or opens doors.

Pure. What is recognised, in the order in which it is looked for; `_RULES` has the patterns:

- private keys in PEM or PGP armour, whole or cut off;
- tokens: what stands behind `Bearer`, `Basic` and names such as `api_key:`, `password =`, `password is`, `X-API-Key:`;
  user and password in a URL; JSON web tokens; keys with the prefix of OpenAI, Anthropic, GitHub, GitLab, Slack, AWS,
  Google, Hugging Face, npm, Stripe or Athena; any run of 40 letters and digits with both among them, as keys and
  digests are;
- e-mail addresses;
- IBANs, by their check digits;
- card numbers: any 13 to 19 digits, with blanks or hyphens between them or without;
- phone numbers, international and national, of at least 7 digits.

It rather takes too much than too little, and is no proof: names, addresses and what a person tells of itself stay.
"""

import re
from collections.abc import Iterator

SHOWN_CHARACTERS = 1000
"""How much of a text is shown. Its line then mostly stays within `PIPE_BUF`, so that no other is mixed into it."""
_LOOK_AHEAD = 4096  # characters behind the cut that are looked at: what begins before it is known whole, or as good as

_KEY = r"[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
_NAMED = (
    r"(?:proxy-)?authorization|x-api-key|x-auth-token|api[-_ ]?keys?|(?:(?:access|refresh|auth|id|session)[-_ ]?)?token"
    r"|(?:client[-_ ]?)?secret(?:[-_ ]?key)?|passwords?|passwd|passphrase|pwd|passwort|kennwort"
)
_PREFIXES = (
    r"sk-|pk-|rk-|sk_live_|sk_test_|pk_live_|rk_live_|gh[opsur]_|github_pat_|glpat-|xox[abeoprs]-|AIza|hf_|npm_|ya29\."
)
_BOTH = r"(?=[A-Za-z_+/-]{0,64}\d)(?=[\d_+/-]{0,64}[A-Za-z])"
# What is in a group is the secret; without a group all is.
_RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("private key", re.compile(rf"-----BEGIN {_KEY}.*?(?:-----END {_KEY}|\Z)", re.DOTALL)),
    ("token", re.compile(r"://([^\s/@:]{1,200}:[^\s/@]{1,200})@")),
    ("token", re.compile(r"\b(?:bearer|basic)\s{1,3}([a-z0-9._~+/=-]{8,})", re.IGNORECASE)),
    (
        "token",
        re.compile(
            rf"(?<![a-z0-9])(?:{_NAMED})[\"']?\s{{0,3}}(?:[:=]|\b(?:is|ist|lautet)\s)\s{{0,3}}"
            r"(?:(?:bearer|basic)\s{1,3})?[\"']?([^\s\"',;]{3,})",
            re.IGNORECASE,
        ),
    ),
    ("token", re.compile(r"\beyJ[\w-]{8,}(?:\.[\w-]*){0,4}")),
    ("token", re.compile(rf"(?<![A-Za-z0-9])(?:{_PREFIXES})[A-Za-z0-9_.-]{{12,}}")),
    ("token", re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")),
    ("token", re.compile(rf"(?<![\w+/-]){_BOTH}[\w+/-]{{40,}}={{0,2}}", re.ASCII)),
    ("e-mail", re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@(?:[\w-]{1,63}\.){1,127}[\w-]{2,63}")),
    ("iban", re.compile(r"\b[a-z]{2}\d{2}(?:[ -]?[a-z0-9]){11,30}", re.ASCII | re.IGNORECASE)),
    ("card", re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)", re.ASCII)),
    ("phone", re.compile(r"(?<![\w+])(?:\+|00)\s?[1-9](?:[ ()./-]{0,3}\d){6,14}(?!\d)", re.ASCII)),
    ("phone", re.compile(r"(?<![\w.])\(?0\d{1,5}\)?(?:[ ./-]{0,3}\d){5,11}(?!\d)", re.ASCII)),
    ("phone", re.compile(r"(?<![\w.])\(?[2-9]\d{2}\)?[ .-]\d{3}[ .-]\d{4}(?!\d)", re.ASCII)),
)
_IBAN_LENGTHS = range(15, 35)
_IBAN_MODULUS = 97


def redact(text: str, *, characters: int = SHOWN_CHARACTERS) -> str:
    """Return the first `characters` of a text, each secret in them replaced by what it is, as in `[e-mail]`.

    A secret across the cut is replaced whole. The end says how much was left out.
    """
    window = text[: characters + _LOOK_AHEAD]
    shown: list[str] = []
    at = 0
    for start, end, name in _secrets(window):
        if start >= characters:
            break
        shown.append(window[at:start] + f"[{name}]")
        at = end
    shown.append(window[at:characters])
    left_out = len(text) - max(at, characters)
    if left_out > 0:
        shown.append(f"… [{left_out} more characters]")
    return "".join(shown)


def _secrets(text: str) -> list[tuple[int, int, str]]:
    """Return where each secret of a text begins and ends, in their order; two that overlap are one."""
    found = sorted(
        (start, end, rank, name)
        for rank, (name, pattern) in enumerate(_RULES)
        for start, end in (_ibans if name == "iban" else _spans)(pattern, text)
    )
    merged: list[tuple[int, int, int, str]] = []
    for start, end, rank, name in found:
        if merged and start < merged[-1][1]:
            before = merged.pop()
            first = min(before[2:], (rank, name))
            merged.append((before[0], max(before[1], end), *first))
        else:
            merged.append((start, end, rank, name))
    return [(start, end, name) for start, end, _, name in merged]


def _spans(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    for match in pattern.finditer(text):
        yield match.span(match.lastindex or 0)


def _ibans(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    """Yield the longest beginning of each candidate that is an IBAN: words behind it look like a part of it."""
    at = 0
    while (match := pattern.search(text, at)) is not None:
        places = [place for place in range(*match.span()) if text[place].isalnum()]
        at = match.start() + 1
        for length in reversed(_IBAN_LENGTHS):
            if length <= len(places) and _is_iban("".join(text[place] for place in places[:length])):
                at = places[length - 1] + 1
                yield match.start(), at
                break


def _is_iban(compact: str) -> bool:
    """Whether the check digits hold (ISO 13616): letters count from A = 10, the first four characters go last."""
    number = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
    return int(number) % _IBAN_MODULUS == 1
