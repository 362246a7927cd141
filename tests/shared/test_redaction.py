"""Secrets are masked in texts and in chains of exceptions."""

from __future__ import annotations

import json
import traceback

import httpx2
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mcp import MCPError

from mcp_pool._shared.redaction import MAX_LEARNED, MAX_QUOTE, RedactedError, Redactor

SECRET = "correct horse"

secrets = st.text(min_size=6, max_size=12)


def raised(error: BaseException, *, cause: BaseException | None = None) -> BaseException:
    """The error after it was raised, possibly from another one."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def during(first: BaseException, then: BaseException) -> BaseException:
    """The second error, raised while the first was handled, without an explicit cause."""
    try:
        try:
            raise first
        except BaseException:
            raise then from None
    except BaseException as caught:
        return caught


def shown(error: BaseException | None) -> str:
    """Everything that a log or a debugger would show of an error."""
    assert error is not None
    return f"{error} {error!r} {error.args} {''.join(traceback.format_exception(error, chain=True))}"


@given(secrets, st.text(), st.text())
def test_a_text_never_contains_a_secret(secret: str, before: str, after: str) -> None:
    assume(not set(secret) <= {"*"})
    assert secret not in Redactor.of([secret]).text(before + secret + after)


@given(st.text(max_size=5), st.text())
def test_a_short_value_is_left_alone(value: str, text: str) -> None:
    assert Redactor.of([value]).text(text + value) == text + value


def test_a_secret_becomes_three_asterisks() -> None:
    assert Redactor.of([SECRET]).text(f"token={SECRET}, {SECRET}!") == "token=***, ***!"


def test_a_value_of_six_characters_is_a_secret_and_one_of_five_is_not() -> None:
    assert Redactor.of(["123456", "abcde"]).text("123456 abcde") == "*** abcde"


@given(st.lists(secrets, min_size=1, max_size=5))
def test_the_order_of_the_values_does_not_matter(values: list[str]) -> None:
    text = " ".join(values)
    assert Redactor.of(values).text(text) == Redactor.of(reversed(values)).text(text)


def test_a_secret_that_contains_another_is_masked_whole() -> None:
    assert Redactor.of(["secret", "secret-and-more"]).text("secret-and-more secret") == "*** ***"


def test_each_line_of_a_multi_line_secret_is_a_secret() -> None:
    text = Redactor.of(["-----BEGIN KEY-----\r\nMIIEvQIBADAN\n-----END KEY-----\n"]).text("so: MIIEvQIBADAN")
    assert text == "so: ***"


def test_without_secrets_nothing_changes() -> None:
    assert Redactor.of([]).text("anything") == "anything"


def test_a_redactor_does_not_show_its_secrets() -> None:
    assert SECRET not in repr(Redactor.of([SECRET]))


def test_none_stays_none() -> None:
    assert Redactor.of([SECRET]).error(None) is None


def test_an_error_without_secrets_stays_the_same_object() -> None:
    error = raised(ValueError("outer"), cause=OSError("inner"))
    assert Redactor.of([SECRET]).error(error) is error


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(raised(ValueError(SECRET)), id="in its text"),
        pytest.param(raised(MCPError(-32000, "no", {"token": SECRET})), id="in its data"),
        pytest.param(raised(ValueError("outer"), cause=OSError(SECRET)), id="in its cause"),
        pytest.param(
            raised(ValueError("outer"), cause=raised(OSError("middle"), cause=KeyError(SECRET))), id="far down"
        ),
        pytest.param(during(OSError(SECRET), ValueError("outer")), id="in its context"),
        pytest.param(raised(ExceptionGroup("group", [OSError(SECRET)])), id="in a group"),
    ],
)
def test_an_error_with_a_secret_is_replaced_by_one_without_it(error: BaseException) -> None:
    stand_in = Redactor.of([SECRET]).error(error)
    assert isinstance(stand_in, RedactedError)
    assert SECRET not in shown(stand_in)
    assert stand_in.__cause__ is None
    assert stand_in.__context__ is None


def test_a_redacted_error_names_the_class_that_it_replaces() -> None:
    stand_in = Redactor.of([SECRET]).error(PermissionError(f"wrong token {SECRET}"))
    assert str(stand_in) == "PermissionError: wrong token ***"


def test_a_cyclic_chain_of_errors_is_followed_once() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert Redactor.of([SECRET]).error(one) is one


def refusal(cause: BaseException | None = None) -> BaseException:
    """The error that a response raises for its status. It shows the URL, and refers to the request twice."""
    request = httpx2.Request("POST", "http://host.test/messages?session_id=1", headers={"Authorization": SECRET})
    try:
        httpx2.Response(503, request=request).raise_for_status()
    except httpx2.HTTPStatusError as error:
        return raised(error, cause=cause)
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "depth"),
    [
        pytest.param(refusal(), 0, id="itself"),
        pytest.param(raised(ValueError("outer"), cause=refusal()), 1, id="as a cause"),
        pytest.param(during(refusal(), ValueError("outer")), 1, id="as a context"),
        pytest.param(refusal(refusal()), 0, id="twice"),
    ],
)
def test_only_the_status_of_an_http_status_error_is_shown(error: BaseException, depth: int) -> None:
    link = Redactor.of([]).error(error)
    assert "session_id" not in shown(link)
    assert link is not None
    for _ in range(depth):
        assert link is error
        assert link.__context__ is None
        assert link.__cause__ is not None
        link = link.__cause__
    while link is not None:
        assert str(link) == "an HTTP request was answered with status 503"
        link = link.__cause__


def test_the_causes_of_an_http_status_error_are_kept() -> None:
    cause = OSError("inner")
    error = Redactor.of([]).error(refusal(cause))
    assert error is not None
    assert error.__cause__ is cause


def test_a_value_that_is_shown_anyway_is_not_a_secret() -> None:
    redactor = Redactor.of(["search", "secret-1"], shown="my search server")
    redactor.learn("authorization", "Bearer server")
    assert redactor.text("search secret-1 server Bearer server") == "search *** server ***"


@pytest.mark.parametrize(
    ("name", "value", "secrets"),
    [
        ("authorization", "Bearer tulip-1", ["Bearer tulip-1", "tulip-1"]),
        ("proxy-authorization", "Basic YWxpY2UtMTp3b25kZXI=", ["YWxpY2UtMTp3b25kZXI=", "alice-1", "wonder"]),
        ("authorization", "Basic no-base-64!", ["no-base-64!"]),
        ("cookie", 'id=tulip-1; other="rose-22"', ['id=tulip-1; other="rose-22"', "tulip-1", "rose-22"]),
        ("mcp-session-id", "tulip-1", ["tulip-1"]),
    ],
)
def test_the_secret_parts_of_a_header_are_learned(name: str, value: str, secrets: list[str]) -> None:
    redactor = Redactor.of(["configured"])
    redactor.learn(name, value)
    for secret in (*secrets, "configured"):
        assert redactor.text(f"so: {secret}!") == "so: ***!"
    assert redactor.text("Bearer Basic") == "Bearer Basic"


def test_only_the_newest_learned_headers_are_remembered() -> None:
    redactor = Redactor.of(["configured"])
    redactor.learn("authorization", "Bearer first-1")
    redactor.learn("cookie", "each=always-1")
    for number in range(1000, 1000 + MAX_LEARNED):
        redactor.learn("authorization", f"Bearer token-{number}")
        redactor.learn("cookie", "each=always-1")
    assert redactor.text("first-1 token-1000 token-1001 always-1 configured") == "first-1 token-1000 *** *** ***"


@pytest.mark.parametrize("secret", ['say "friend"', "back\\slash", "Münchhausen", "base64/with+slashes", "line\nbreak"])
def test_a_secret_is_masked_in_json_too(secret: str) -> None:
    redactor = Redactor.of([secret])
    for ascii_only in (True, False):
        line = json.dumps({"token": secret}, ensure_ascii=ascii_only)
        assert redactor.text(line) == '{"token": "***"}'
        assert redactor.text(line.replace("/", "\\/")) == '{"token": "***"}'


# Quotations


def test_a_quotation_is_one_printable_line() -> None:
    quote = Redactor.of(()).quote
    assert quote(b"fine") == "'fine'"
    assert quote("a\x1b[31m\nb\u202e") == r"'a\x1b[31m\nb\u202e'"
    assert quote("naïve — 中".encode()) == "'naïve — 中'"
    assert quote(b"M\xfcller") == r"'M\xfcller'"


@pytest.mark.parametrize("sign", ["x", "中", "\0", "\U000e0001"])
def test_a_quotation_is_cut(sign: str) -> None:
    quote = Redactor.of(()).quote
    assert quote(sign * MAX_QUOTE).endswith("…'") is not sign.isprintable()
    for said in (sign * (MAX_QUOTE + 1), (sign * (MAX_QUOTE + 1)).encode(), sign * 10**6):
        assert quote(said).endswith("…'")
        assert len(quote(said)) <= 2 * MAX_QUOTE + 3


@given(
    st.lists(
        st.sampled_from(["x", "中", "\n", *(hidden := ("SECRET-ONE", "SECRET-ONE-AND-TWO", "NE-AND-T-THREE"))]),
        max_size=60,
    )
)
def test_a_quotation_shows_no_part_of_a_secret_wherever_it_is_cut(parts: list[str]) -> None:
    redactor = Redactor.of(hidden)
    for said in ("".join(parts), "".join(parts).encode(), "x" * (MAX_QUOTE - 5) + "".join(parts)):
        shown = redactor.quote(said)
        assert not set(shown) & set("SECRTOAWH-")
