"""Who may use the proxy: API keys in a file that may change at any time."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from athena.proxy import keyring as keyring_module
from athena.proxy import keys as keys_module
from athena.proxy.app import create_app
from athena.proxy.caller import Caller
from athena.proxy.keyring import KeyRing
from athena.proxy.keys import KeysFile, KeysFileError, new_key, parse, read
from athena.proxy.server.limits import Limits
from athena.settings import ProxySettings
from tests.proxy.conftest import TOKEN, Run, wait_for_configuration
from tests.proxy.engines import ollama_engine
from tests.proxy.plain import Line
from tests.proxy.standin import Registry
from tests.support.clock import Clock
from tests.support.prompt_server import serving_prompts

ALICE, ALICES_LINE = new_key("alice")
BOB, BOBS_LINE = new_key("bob@example.org")


def keyless(_: object) -> str:
    """Name no parameter by its value: the keys are new in each process, and all must know a test by the same name."""
    return "case"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the keys of Alice and Bob."""
    path = tmp_path / "keys"
    path.write_text(f"# callers\n\n{ALICES_LINE}\n{BOBS_LINE}  # since spring\n")
    return path


class Keys:
    """The keys of a file alone, and the names of their callers."""

    def __init__(self, file: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file; raises KeysFileError."""
        self.ring = KeyRing(KeysFile(file, clock=clock), None, caller_of=lambda key: Caller(key.name, key))
        self.refusal = self.ring.refusal

    def caller(self, authorization: bytes | None, api_key: bytes | None) -> str | None:
        """Return the name of who sends these headers."""
        caller = self.ring.caller(authorization, api_key)
        return caller.name if caller is not None else None


def bearer(key: str) -> bytes:
    """Return the header's value for a key."""
    return f"Bearer {key}".encode()


def test_a_caller_is_known_by_either_header_again_and_again(file: Path) -> None:
    keys = Keys(file)
    for _ in range(2):
        assert keys.caller(bearer(ALICE), None) == "alice"
        assert keys.caller(None, BOB.encode()) == "bob@example.org"
        assert keys.caller(b"bearer   " + ALICE.encode(), None) == "alice"


def test_a_client_that_must_send_some_authorization_may_send_its_key_as_x_api_key(file: Path) -> None:
    assert Keys(file).caller(b"Bearer ollama", ALICE.encode()) == "alice"


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [
        (None, None),
        (b"", b""),
        (b"Bearer", None),
        (b"Bearer ", None),
        (ALICE.encode(), None),
        (b"Basic " + ALICE.encode(), None),
        (None, bearer(ALICE)),
        (bearer(ALICE[:-1]), None),
        (bearer(ALICE + "x"), None),
        (bearer(ALICES_LINE.split()[1]), None),
        (b"Bearer \xff\xfe", b"\xff"),
    ],
    ids=keyless,
)
def test_nobody_else_is_let_in_not_even_after_the_right_caller(
    file: Path, authorization: bytes | None, api_key: bytes | None
) -> None:
    keys = Keys(file)
    assert keys.caller(authorization, api_key) is None
    assert keys.caller(bearer(ALICE), None) == keys.caller(None, ALICE.encode()) == "alice"
    assert keys.caller(authorization, api_key) is None


def test_a_refusal_says_what_is_missing_and_never_repeats_a_key(file: Path) -> None:
    keys = Keys(file)
    assert "`Authorization: Bearer KEY` or as `x-api-key`" in keys.refusal(None, None).detail
    assert "must be `Bearer KEY`" in keys.refusal(b"Basic c2VjcmV0", None).detail
    for refusal in (keys.refusal(b"Bearer secret", None), keys.refusal(None, b"secret")):
        assert refusal.status == 401
        assert "not one of this proxy" in refusal.detail
        assert "secret" not in refusal.detail


def test_whoever_guesses_fills_no_memory_nor_does_a_caller_who_varies_the_header(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring_module, "_KEPT_HEADERS", 8)
    keys = Keys(file)
    for number in range(100):
        assert keys.caller(bearer(f"guess-{number}"), b"guess-%d" % number) is None
    assert not keys.ring._by_authorization
    assert not keys.ring._by_api_key
    for spaces in range(1, 100):
        assert keys.caller(b"Bearer" + b" " * spaces + ALICE.encode(), None) == "alice"
        assert len(keys.ring._by_authorization) <= 8


def test_a_changed_file_holds_within_a_second(file: Path) -> None:
    clock = Clock(100.0)
    keys = Keys(file, clock=clock)
    carol, carols_line = new_key("carol")
    assert keys.caller(bearer(ALICE), None) == "alice"
    file.write_text(f"{BOBS_LINE}\n{carols_line}\n")
    clock.now += keys_module.CHECK_SECONDS
    with capture_logs() as logs:
        assert keys.caller(bearer(ALICE), None) is None
    assert keys.caller(bearer(carol), None) == "carol"
    assert [(line["event"], line["keys"]) for line in logs] == [("api_keys_loaded", 2)]


def test_a_file_that_is_replaced_by_one_of_the_same_size_and_time_is_noticed(file: Path) -> None:
    clock = Clock(100.0)
    keys = Keys(file, clock=clock)
    old = file.stat()
    carol, carols_line = new_key("carol")
    new = file.with_suffix(".new")
    new.write_text(carols_line.ljust(old.st_size, "#"))
    os.utime(new, ns=(old.st_atime_ns, old.st_mtime_ns))
    new.replace(file)
    assert file.stat().st_size == old.st_size
    clock.now += keys_module.CHECK_SECONDS
    assert keys.caller(bearer(carol), None) == "carol"


def test_the_file_is_looked_at_once_a_second_at_most(file: Path) -> None:
    clock = Clock(100.0)
    keys = Keys(file, clock=clock)
    file.write_text(BOBS_LINE)
    clock.now += keys_module.CHECK_SECONDS * 0.9
    assert keys.caller(bearer(ALICE), None) == "alice"
    clock.now += keys_module.CHECK_SECONDS * 0.2
    assert keys.caller(bearer(ALICE), None) is None


def spoil(file: Path) -> None:
    """Write half a line, as an editor does that is interrupted."""
    file.write_text(f"{BOBS_LINE}\n{ALICES_LINE[:40]}")


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [(spoil, "line 2: "), (lambda file: file.write_text(""), "no key is in it"), (Path.unlink, "No such file")],
)
def test_a_new_file_that_does_not_hold_leaves_the_keys_from_before_and_is_logged_once(
    file: Path, harm: Callable[[Path], None], complaint: str
) -> None:
    clock = Clock(100.0)
    keys = Keys(file, clock=clock)
    harm(file)
    with capture_logs() as logs:
        for _ in range(3):
            clock.now += keys_module.CHECK_SECONDS
            assert keys.caller(bearer(ALICE), None) == "alice"
    assert [line["event"] for line in logs] == ["api_keys_not_loaded"]
    assert logs[0]["error"].startswith(f"the file of API keys {file} cannot be used: {complaint}")
    file.write_text(BOBS_LINE)
    clock.now += keys_module.CHECK_SECONDS
    assert keys.caller(bearer(ALICE), None) is None
    assert keys.caller(bearer(BOB), None) == "bob@example.org"


def test_a_caller_may_have_two_keys_while_one_replaces_the_other(file: Path) -> None:
    second, line = new_key("alice")
    file.write_text(f"{ALICES_LINE}\n{line}\n")
    keys = Keys(file)
    assert keys.caller(bearer(ALICE), None) == keys.caller(bearer(second), None) == "alice"


def test_keys_that_share_a_bucket_are_told_apart(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring_module, "_BUCKET", 0)
    keys = Keys(file)
    assert keys.caller(bearer(ALICE), None) == "alice"
    assert keys.caller(bearer(BOB), None) == "bob@example.org"
    assert keys.caller(bearer("guess"), None) is None


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("alice", "it has 1 words, not NAME SHA256HEX"),
        ("alice my key", "it has 3 words, not NAME SHA256HEX"),
        ("alice sk-athena-abc", "64 hexadecimal digits"),
        ("alice " + "g" * 64, "64 hexadecimal digits"),
        ("-rf " + "a" * 64, "a caller's name is"),
        ("a" * 65 + " " + "a" * 64, "a caller's name is"),
        (f"mallory {ALICES_LINE.split()[1].upper()}", "the key is that of line 2"),
    ],
    ids=keyless,
)
def test_a_line_at_fault_is_named_and_not_shown(line: str, complaint: str) -> None:
    with pytest.raises(KeysFileError) as caught:
        parse(f"# comment\n{ALICES_LINE}\n\n{line}\n")
    assert caught.value.detail.startswith("line 4: ")
    assert complaint in caught.value.detail
    assert "sk-athena-abc" not in caught.value.detail


def test_what_is_no_file_of_keys_is_refused_at_the_start_with_its_name(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path, complaint in [
        (tmp_path / "none", "No such file or directory"),
        (tmp_path, "it is not a regular file"),
        (pipe, "it is not a regular file"),
        (binary, "it is not text in UTF-8"),
    ]:
        with pytest.raises(KeysFileError, match=complaint) as caught:
            Keys(path)
        assert caught.value.detail.startswith(f"the file of API keys {path} cannot be used: ")


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"\xef\xbb\xbf" + ALICES_LINE.encode() + b"\r\n" + BOBS_LINE.encode() + b"\r\n")
    assert [key.caller for key in read(file)] == ["alice", "bob@example.org"]


def test_new_keys_differ_and_a_name_that_cannot_stand_in_the_file_is_refused() -> None:
    assert len({new_key("alice")[0] for _ in range(100)}) == 100
    assert len(ALICE) > 40
    assert ALICE not in ALICES_LINE
    with pytest.raises(KeysFileError):
        new_key("two words")


@pytest.fixture
def guarded(file: Path, stack: ExitStack, stand_in: Run) -> str:
    """The address of a proxy that asks for keys, in front of an Ollama; the registry has none."""
    settings = ProxySettings.model_validate(
        {
            "admin_api_url": stack.enter_context(Registry([])).url,
            "admin_api_token": TOKEN,
            "ollama_url": stand_in(ollama_engine).url,
            "proxy_api_keys_file": file,
        }
    )
    return wait_for_configuration(stack.enter_context(serving_prompts(create_app(settings), Limits())).url)


GENERATE = {"model": "tiny:latest", "prompt": "Once", "stream": False}


def test_only_with_a_key_a_prompt_is_answered_or_a_model_listed(guarded: str) -> None:
    with httpx.Client(base_url=guarded, timeout=10) as http:
        for path in ("/v1/chat/completions", "/v1/completions", "/api/chat", "/api/generate"):
            refused = http.post(path, json=GENERATE)
            assert refused.status_code == 401
            error = refused.json()["error"]
            message = error if path.startswith("/api/") else error["message"]
            assert message.startswith("An API key is needed")
            assert http.post(path, json=GENERATE, headers={"Authorization": "Bearer guess"}).status_code == 401
        for headers in ({"Authorization": f"Bearer {ALICE}"}, {"x-api-key": BOB}):
            answer = http.post("/api/generate", json=GENERATE, headers=headers)
            assert answer.json()["response"] == "Hello there, caller."
        for path in ("/v1/models", "/v1/models/tiny:latest", "/api/tags", "/api/ps"):
            assert http.get(path).status_code == 401
            assert http.get(path, headers={"x-api-key": ALICE}).status_code == 200
        asked = {"model": "tiny:latest"}
        assert http.post("/api/show", json=asked).status_code == 401
        assert http.post("/api/show", json=asked, headers={"x-api-key": ALICE}).status_code == 200


def test_a_body_without_a_key_is_refused_before_it_has_come(guarded: str) -> None:
    port = int(guarded.rpartition(":")[2])
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n{}\r\n"
    with Line(port, head.format("").encode() + b"{") as stranger:
        assert stranger.rest().startswith(b"HTTP/1.1 401 ")
    with Line(port, head.format(f"Authorization: Bearer {ALICE}\r\n").encode() + b"{") as alice:
        alice.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):  # her body is awaited
            alice.socket.recv(1)


def test_pages_that_watch_over_the_proxy_need_no_key(guarded: str) -> None:
    for path in ("/", "/health", "/livez", "/metrics", "/api/version", "/openapi.json"):
        assert httpx.get(guarded + path).status_code == 200


def test_the_admin_api_asks_why_with_the_installation_s_token_which_opens_nothing_else(guarded: str) -> None:
    why = f"{guarded}/athena/why?model=m"
    assert httpx.get(why, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert httpx.get(why, headers={"x-api-key": ALICE}).status_code == 200
    for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}):
        assert httpx.get(why, headers=headers).status_code == 401
    assert httpx.get(f"{guarded}/v1/models", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 401


def test_without_the_setting_no_keys_are_asked_for() -> None:
    assert ProxySettings.model_validate({}).proxy_api_keys_file is None
