# ruff: noqa: RUF001 (punctuation of many scripts is meant as it stands)
"""Words and their spacing: a sentence as tokens, from which it comes back as it was.

A word is what Unicode's rules (UAX #29) and fields of translation call one. Letters keep their
marks in every script; emoji sequences are one token. Some habits differ: words with hyphens are one
token, English clitics (`'t`) their own, and each character of Chinese and Japanese is a word. Thai,
Lao, Khmer and Burmese, which have no spaces either, are cut by ICU's dictionaries.

The spacing of most tokens follows from plain rules, such as no space before a full stop. Where a
sentence differs from them, a mark says so: `GLUE` for no space, or the space itself. It is part of
the punctuation beside it, and a token of its own between two words, so the vocabulary stays small.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import regex
from icu4py.breakers import WordBreaker

Rules = Literal[1, 2]
"""Of which words consist: 2, or 1 in runs of earlier versions, which tore words at their marks and
said nothing of spacing."""

GLUE = "\uffed"
"""Marks a place without a space where the rules expect one. In a sentence, this
character is replaced by U+25A0, which Unicode holds compatible with it."""

# A space of any kind, and the one without width that separates words of Thai or Khmer.
_BLANK = r"[\s\x1c-\x1f\u200b]"
# Spaces that are all alike; the others (no-break, wide, without width) are kept as they stand.
_USUAL = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\u2028\u2029"

# Scripts without spaces between words. Each character of the first kind is a word.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_BY_DICTIONARY = r"\p{Line_Break=Complex_Context}"

_LETTERS = rf"[[\w\p{{N}}\p{{M}}\p{{WB=ALetter}}]--[{_CJK}]--{_BY_DICTIONARY}]+"
# What stands within words: the middle dot of Catalan, Hebrew's gershayim, a soft hyphen; an
# apostrophe where it is no clitic's, and Hebrew's quotation mark.
_WITHIN = (
    r"[·‧՟״\u00ad]"
    r"|(?<=[\p{L}--\p{Latin}]\p{M}*)['’](?=[\p{L}--\p{Latin}])"
    r"|(?<=\p{Hebrew}\p{M}*)\"(?=\p{Hebrew})"
)
_WORD = rf"{_LETTERS}(?:(?:{_WITHIN}){_LETTERS})*"
_TOKENS = regex.compile(
    rf"(?<glyph>[{_CJK}]\p{{M}}*)"
    rf"|(?<run>{_BY_DICTIONARY}[{_BY_DICTIONARY}\p{{M}}]*)"
    r"|(?<number>\d+(?:[.,:٫٬]\d+)+)"
    rf"|(?<clitic>(?<=\w)['’]{_LETTERS})"
    rf"|(?<word>{_WORD}(?:-{_WORD})*)"
    rf"|(?<other>(?!{_BLANK})\X)",
    regex.VERSION1,
)

# The tokens of `Rules` 1.
_EARLIER_LETTERS = rf"[^\W{_CJK}]+"
_EARLIER = re.compile(
    rf"[{_CJK}]"
    r"|\d+(?:[.,:]\d+)+"
    rf"|(?<=\w)['’]{_EARLIER_LETTERS}"
    rf"|{_EARLIER_LETTERS}(?:-{_EARLIER_LETTERS})*"
    r"|[^\w\s]"
)

_NO_SPACE_BEFORE = re.compile(rf"[.,;:!?%)\]}}…»{_CJK}，。！？、；：）》”’]|['’]\w")
_NO_SPACE_AFTER = re.compile(rf"[(\[{{«¿¡„“‘{_CJK}，。！？、；：（《]$")
_RUN_FIRST = regex.compile(_BY_DICTIONARY)
_RUN_LAST = regex.compile(rf"{_BY_DICTIONARY}\p{{M}}*$")
_MARK = regex.compile(rf"{GLUE}|{_BLANK}+")
_MARKED = regex.compile(rf"({GLUE}|{_BLANK}*)(.+?)({GLUE}|{_BLANK}*)", regex.DOTALL)


def split(text: str, rules: Rules = 2) -> list[str]:
    """Split a sentence into tokens, from which `join` makes the same sentence again.

    Args:
        text: the sentence, in composed form (NFC). Spaces at its ends are no part of it, and
            several usual ones in a row are one.
        rules: what a word is; tokens by rules 1 do not hold the spacing.
    """
    if rules == 1:
        return _EARLIER.findall(text)
    tokens: list[str] = []
    last, last_is_word = "", True
    for token, is_word, gap in _pieces(text.replace(GLUE, "\u25a0")):
        mark = "" if not last or gap == _expected(last, token) else gap or GLUE
        if not is_word:
            tokens.append(mark + token)
        elif mark and last_is_word:
            tokens += [mark, token]
        else:
            if mark:
                tokens[-1] += mark
            tokens.append(token)
        last, last_is_word = token, is_word
    return tokens


def join(tokens: Sequence[str]) -> str:
    """Join tokens to a sentence, spaced as their marks or else the plain rules say.

    Where a gap has several marks, which no sentence's has, the last one counts.
    """
    text, last, mark = "", "", ""
    for token in tokens:
        before, core, after = _parts(token)
        mark = before or mark
        if not core:
            continue
        if last:
            text += "" if mark == GLUE else mark or _expected(last, core)
        text, last, mark = text + core, core, after
    return text


def _pieces(text: str) -> Iterator[tuple[str, bool, str]]:
    """Yield each token, whether it is a word, and the space before it."""
    end = 0
    for match in _TOKENS.finditer(text):
        between = text[end : match.start()]
        gap = between and (between.strip(_USUAL) or " ")
        end = match.end()
        if match.lastgroup != "run":
            yield match[0], match.lastgroup != "other", gap
            continue
        for word in WordBreaker(match[0], "root"):
            yield word, True, gap
            gap = ""


def _expected(left: str, right: str) -> str:
    """The space between two tokens by the plain rules."""
    one, other = _Edges.of(left), _Edges.of(right)
    hugs = one.hugs_right or other.hugs_left or (one.ends_in_run and other.begins_run)
    return "" if hugs else " "


class _Edges(NamedTuple):
    """The properties of a token that the plain rules use.

    Attributes:
        hugs_left, hugs_right: no space is expected on this side.
        begins_run, ends_in_run: its first, its last letter is of a script cut by dictionary.
    """

    hugs_left: bool
    hugs_right: bool
    begins_run: bool
    ends_in_run: bool

    @staticmethod
    @lru_cache(maxsize=100_000)
    def of(token: str) -> "_Edges":
        return _Edges(
            bool(_NO_SPACE_BEFORE.match(token)),
            bool(_NO_SPACE_AFTER.search(token)),
            bool(_RUN_FIRST.match(token)),
            bool(_RUN_LAST.search(token)),
        )


@lru_cache(maxsize=100_000)
def _parts(token: str) -> tuple[str, str, str]:
    """The mark before a token, the token itself ("" if it is but a mark), and the mark after it."""
    if _MARK.fullmatch(token):
        return token, "", ""
    match = _MARKED.fullmatch(token)
    return (match[1], match[2], match[3]) if match else ("", token, "")
