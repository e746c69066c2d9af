"""Whatever a caller sends, it is a request or it is refused: nothing else comes of it, for any engine."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from athena.router.call import Call
from athena.router.dialects import codec
from athena.router.engines import ENGINES
from athena.router.errors import BackendError, RequestRejectedError
from athena.router.types import Backend, BackendType, Dialect, Operation

BACKEND = Backend(model_name="m", backend_type=BackendType.OLLAMA, endpoint_url="http://engine.example.internal")
WORDS = ["user", "tool", "text", "image_url", "json", "json_schema", "data:image/png;base64,AAAA", "http://x.example/y"]
LEAF = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5)), st.sampled_from(WORDS)
)
INNER = (
    "role content type text image_url url function name arguments tool_calls id schema json_schema include_usage "
    "temperature num_predict seed stop top_k images thinking"
)
OUTER = (
    "stream options format system think images tools keep_alive suffix raw context temperature max_tokens top_p top_k "
    "min_p seed stop n logprobs logit_bias tool_choice response_format stream_options chat_template_kwargs other"
)
VALUE = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER.split()) | st.text(max_size=3), inner)
    ),
    max_leaves=10,
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system"])},
    optional=dict.fromkeys(("content", "tool_calls", "images", "thinking"), VALUE),
)
BODY = st.fixed_dictionaries(
    {"model": st.just("m")},
    optional=dict.fromkeys(OUTER.split(), VALUE)
    | {"messages": st.lists(MESSAGE, max_size=2) | VALUE, "prompt": st.text(max_size=4) | VALUE},
)


def _render_everywhere(dialect: Dialect, operation: Operation, body: bytes) -> None:
    for engine in ENGINES.values():
        try:
            rendered = engine.render(Call(dialect, operation, body), BACKEND)
        except (RequestRejectedError, BackendError):
            continue
        assert isinstance(json.loads(rendered.body.decode(errors="replace")), dict)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=300)
@given(dialect=st.sampled_from(Dialect), operation=st.sampled_from(Operation), body=BODY)
def test_any_json_object_is_a_request_or_is_refused(
    dialect: Dialect, operation: Operation, body: dict[str, Any]
) -> None:
    data = json.dumps(body).encode()
    _render_everywhere(dialect, operation, data)
    with suppress(RequestRejectedError):
        codec(dialect).decode_request(operation, data)


@given(dialect=st.sampled_from(Dialect), operation=st.sampled_from(Operation), body=st.binary(max_size=50))
def test_any_bytes_are_refused(dialect: Dialect, operation: Operation, body: bytes) -> None:
    with pytest.raises(RequestRejectedError):
        Call(dialect, operation, body)


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("content", [b'"\xff"', b'"\\ud800"', b"[" * 5000 + b"]" * 5000, b"1e999", b'"a\nb"'], ids=repr)
def test_what_json_does_not_allow_is_refused_where_it_is_read(dialect: Dialect, content: bytes) -> None:
    body = b'{"model": "m", "messages": [{"role": "user", "content": %b}]}' % content
    with pytest.raises(RequestRejectedError):
        _ = Call(dialect, Operation.CHAT, body).request
    _render_everywhere(dialect, Operation.CHAT, body)
