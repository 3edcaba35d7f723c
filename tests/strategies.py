"""Hypothesis strategies shared by the tests."""

from hypothesis import strategies as st

# What breaks key names, glob patterns, hash tags, line protocols and UTF-8.
HOSTILE = (
    "",
    "\0",
    ":",
    "::",
    "{",
    "}",
    "{}",
    "}{",
    "{a}:b",
    "*",
    "?",
    "[a-z]",
    "*?[]\\",
    "\\",
    "%",
    "%00",
    "%3A",
    "\r\n",
    "\r\n+OK\r\n",
    " ",
    ".",
    "..",
    "../x",
    "\ud800",
    "\udc80",
    "a\udfffb",
    "é",
    "e\u0301",
    "\u202e",
    "\ufeff",
    "\U0001f9e0",
    "x" * 512,
    "x" * 513,
    "x" * 65_536,
    "\0" * 65_536,
    "\U0001f9e0" * 16_384,
)

_PIECES = st.sampled_from([*":{}*?[]\\%/.~-_ \0\r\n", "a", "é", "\ud800", "\udfff", "\U0001f9e0", "%7B", "{}"])

# Lone surrogates included: `st.characters()` leaves nothing out.
hostile: st.SearchStrategy[str] = st.one_of(
    st.sampled_from(HOSTILE),
    st.lists(_PIECES, max_size=12).map("".join),
    st.text(st.characters(), max_size=40),
)
