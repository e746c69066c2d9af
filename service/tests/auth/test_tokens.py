from datetime import UTC, datetime, timedelta

import jwt
import pytest

from athena.auth.tokens import Scope, issue, verify
from athena.errors import UnauthorizedError

SECRET = "a-signing-secret-of-more-than-32-bytes"


def test_a_token_says_whose_it_is_and_how_far_it_reaches() -> None:
    claims = verify(SECRET, issue(SECRET, user="jay", scope="service", days=1))
    assert claims.user == "jay"
    assert claims.scope is Scope.SERVICE


def test_an_expired_token_says_how_to_get_a_new_one() -> None:
    with pytest.raises(UnauthorizedError, match="expired; `athena token` makes a new one"):
        verify(SECRET, issue(SECRET, user="jay", days=-1))


def test_a_token_of_another_secret_does_not_hold() -> None:
    with pytest.raises(UnauthorizedError):
        verify(SECRET, issue("another" * 8, user="jay"))


@pytest.mark.parametrize("missing", ["exp", "iat", "sub", "scope", "iss"])
def test_a_token_without_one_of_its_claims_does_not_hold(missing: str) -> None:
    now = datetime.now(UTC)
    claims = {"iss": "athena", "sub": "jay", "scope": "admin", "iat": now, "exp": now + timedelta(days=1)}
    del claims[missing]
    with pytest.raises(UnauthorizedError):
        verify(SECRET, jwt.encode(claims, SECRET))


def test_an_unsigned_token_does_not_hold() -> None:
    now = datetime.now(UTC)
    claims = {"iss": "athena", "sub": "jay", "scope": "admin", "iat": now, "exp": now + timedelta(days=1)}
    with pytest.raises(UnauthorizedError):
        verify(SECRET, jwt.encode(claims, "", algorithm="none"))


def test_a_token_of_an_unknown_scope_does_not_hold() -> None:
    now = datetime.now(UTC)
    claims = {"iss": "athena", "sub": "jay", "scope": "root", "iat": now, "exp": now + timedelta(days=1)}
    with pytest.raises(UnauthorizedError):
        verify(SECRET, jwt.encode(claims, SECRET))


def test_an_administrator_may_do_what_a_service_may_and_not_the_other_way_round() -> None:
    assert Scope.ADMIN.covers(Scope.SERVICE)
    assert not Scope.SERVICE.covers(Scope.ADMIN)
