"""Patterns of announced secrets, in the spellings of URLs, JSON, HTML and Python.

A pattern has two parts: the announcement, which stays visible, and the `SecretRule` for the
value behind it. The shorter and more common an announcement is, the longer a value must be
before it is hidden, so that ordinary output such as `sig=0.05` stays as it is.
"""

from __future__ import annotations

import re

from .scanner import Scanner, SecretRule

# One character, percent-encoded up to four times, or escaped as in JSON or HTML.
_PERCENT = r"%(?:25){0,3}"
_ESCAPE = r"\\{1,4}"
_EQUALS = rf"(?:=|{_PERCENT}3d|{_ESCAPE}u003d|&\#(?:61|x3d);)"
_ENDS_QUERY_MARK = re.compile(
    rf"(?:[?&;]|{_PERCENT}(?:3f|26)|{_ESCAPE}(?:u00(?:26|3f)|x(?:26|3f)))\Z", re.IGNORECASE
)
_QUERY_MARK_REACH = 12
_NO_VALUE = r"[^a-z0-9+/=_.~!*@:%&\\'\"-]"  # no value begins with it, in any spelling
_COLON = r"""["'\\]{0,4}[ \t]{0,2}[:=,]"""  # as in JSON, a dict or a list of pairs
_SPACE = rf"(?:[ \t+]|{_PERCENT}20)"

# The first two characters of an announcement are searched for without the rest, which is many
# times faster. The rest is matched after the first character, hence the look-behinds.
_FIRST_TWO = "[aAbBsSxX%](?=[cCeEhHiIuU%257-])"
_SIG = rf"(?:(?<=s)|(?<=%)(?:25){{0,3}}[57]3)(?:i|{_PERCENT}[46]9)(?:g|{_PERCENT}[46]7)"
_NAME = rf"(?:{_SIG}|(?<=a)ccount_?key|(?<=s)haredaccesskey)"
_SHARED_KEY = "haredkey(?:lite)?[ ][a-z0-9-]{3,40}:"
_SCHEME = rf"(?:(?:bearer|basic){_SPACE}|s{_SHARED_KEY})"
_AUTHORIZATION = rf"""(?<=a)uthorization{_COLON}[ \t]{{0,2}}b?["'\\]{{0,4}}{_SCHEME}"""
_ANNOUNCEMENT = re.compile(
    rf"{_FIRST_TWO}(?i:"
    rf"(?P<near>{_NAME}{_EQUALS}(?!{_NO_VALUE}))"
    rf"|(?P<far>{_NAME}(?!{_EQUALS}){_COLON})"
    rf"|(?P<header>(?<=x)-ms-apikey(?:{_EQUALS}|{_COLON})|{_AUTHORIZATION})"
    rf"|(?P<bearer>(?<=b)earer{_SPACE}|(?<=s){_SHARED_KEY})"
    ")"
)

# The characters of a value. Those that end a value (& # " ' < space) are left out in every
# spelling.
_ESCAPED = (
    rf"{_PERCENT}(?:2[b-f]|3[0-9ad]|[4-7][0-9a-f])"
    rf"|{_ESCAPE}(?:/|u00(?:2[b-f]|3[0-9d]|[4-7][0-9a-f]))"
    r"|&\#(?:43|47|61|x2b|x2f|x3d);"
)
_NARROW = rf"(?:[a-z0-9+/=_-]|{_ESCAPED})"
_WIDE = rf"(?:[a-z0-9+/=_.~!*@:-]|{_ESCAPED})"
_CUT = r"(?:%[0-9a-f]{0,8}|\\{1,4}(?:u[0-9a-f]{0,3})?|&(?:\#x?[0-9a-f]{0,2})?)\Z"

_QUOTE = r"""(?>(?:\\{0,3}["'])?)"""
_SPACED_QUOTE = r"""(?>[ \t]{0,2}(?:b?\\{0,3}["'])?)"""
_OPENING = r"""(?>[ \t]{0,2}[\[(]{0,2}(?:b?\\{0,3}["'])?)"""


def _build_rule(opening: str, character: str, min_length: int) -> SecretRule:
    return SecretRule(
        secret=re.compile(rf"({opening}){character}{{{min_length}}}", re.IGNORECASE),
        partial=re.compile(rf"{opening}{character}*+(?:{_CUT}|\Z)", re.IGNORECASE),
        rest=re.compile(rf"{character}*+", re.IGNORECASE),
        partial_escape=re.compile(_CUT, re.IGNORECASE),
    )


_QUERY = _build_rule(_QUOTE, _WIDE, 1)
# The shorter its announcement, the longer a value must be: sig=0.05 is not a signature.
_RULES = {
    "near": _build_rule(_QUOTE, _NARROW, 8),
    "far": _build_rule(_OPENING, _NARROW, 32),
    "header": _build_rule(_SPACED_QUOTE, _WIDE, 8),
    "bearer": _build_rule(_SPACED_QUOTE, _WIDE, 20),
}

# RFC 7519: three parts of base64url, the first of which is a JSON object. Its first three
# characters are the same in all tokens, so they are the announcement. RFC 7515 sets no bound on
# the length. 4,096 characters hold a header with certificates.
_PART = "[A-Za-z0-9_-]"
_TOKEN = SecretRule(
    secret=re.compile(rf"(){_PART}{{10,4096}}+\.{_PART}{{10}}"),
    partial=re.compile(rf"(?:{_PART}{{0,4096}}+|{_PART}{{10,4096}}+\.{_PART}{{0,9}})\Z"),
    rest=re.compile(r"[A-Za-z0-9_.-]*+"),
    partial_escape=re.compile(r"(?!)"),
    skip=re.compile(rf"{_PART}*+"),
)
_TOKEN_HEAD = re.compile("e(?:yJ|yA|wo)")


def build_named_value_scanner() -> Scanner:
    """Build a scanner that hides the values of secret parameters, settings and headers."""
    return Scanner(_ANNOUNCEMENT, _choose_rule)


def build_token_scanner() -> Scanner:
    """Build a scanner that hides JSON web tokens."""
    return Scanner(_TOKEN_HEAD, lambda _: _TOKEN)


def _choose_rule(match: re.Match[str]) -> SecretRule:
    before = match.string[max(0, match.start() - _QUERY_MARK_REACH) : match.start()]
    if match.lastgroup == "near" and _ENDS_QUERY_MARK.search(before):
        return _QUERY
    return _RULES[match.lastgroup or "far"]
