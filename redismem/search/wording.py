"""What the words of a question mean for a search: which count, which are one word, who and what is asked for.

English has its tables here; words of other languages are stemmed and weighted by how rare they are, as all are.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from redismem.search.texts import Stemmer, Term, composed, words

STOP_WORDS: Final = frozenset(
    [
        "a",
        "about",
        "after",
        "again",
        "ago",
        "all",
        "also",
        "am",
        "an",
        "and",
        "any",
        "anything",
        "are",
        "as",
        "at",
        "be",
        "because",
        "been",
        "before",
        "being",
        "between",
        "both",
        "but",
        "by",
        "can",
        "could",
        "d",
        "did",
        "do",
        "does",
        "doing",
        "done",
        "during",
        "each",
        "either",
        "else",
        "ever",
        "every",
        "few",
        "for",
        "from",
        "further",
        "get",
        "gets",
        "getting",
        "got",
        "had",
        "has",
        "have",
        "having",
        "he",
        "her",
        "here",
        "hers",
        "him",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "itself",
        "just",
        "know",
        "let",
        "like",
        "ll",
        "m",
        "many",
        "may",
        "me",
        "might",
        "mine",
        "more",
        "most",
        "much",
        "must",
        "my",
        "neither",
        "no",
        "nor",
        "not",
        "now",
        "of",
        "off",
        "on",
        "once",
        "one",
        "only",
        "or",
        "other",
        "ought",
        "our",
        "ours",
        "out",
        "over",
        "own",
        "please",
        "re",
        "s",
        "same",
        "say",
        "said",
        "says",
        "shall",
        "she",
        "should",
        "so",
        "some",
        "someone",
        "something",
        "such",
        "t",
        "tell",
        "than",
        "that",
        "the",
        "their",
        "them",
        "themselves",
        "then",
        "there",
        "these",
        "they",
        "thing",
        "things",
        "this",
        "those",
        "through",
        "to",
        "too",
        "under",
        "until",
        "up",
        "upon",
        "us",
        "used",
        "ve",
        "very",
        "was",
        "we",
        "were",
        "what",
        "whatever",
        "when",
        "where",
        "whether",
        "which",
        "while",
        "who",
        "whom",
        "whose",
        "why",
        "will",
        "with",
        "within",
        "without",
        "would",
        "yet",
        "you",
        "your",
        "yours",
    ]
)
_IRREGULAR: Final = """arise arose arisen|awake awoke awoken|bear bore born borne|beat beaten|become became|begin began
begun|bend bent|bind bound|bite bit bitten|bleed bled|blow blew blown|break broke broken|breed bred|bring brought|build
built|burn burnt|buy bought|catch caught|choose chose chosen|come came|creep crept|deal dealt|dig dug|draw drew drawn|
dream dreamt|drink drank drunk|drive drove driven|eat ate eaten|fall fell fallen|feed fed|feel felt|fight fought|find
found|flee fled|fly flew flown flies|forbid forbade forbidden|forget forgot forgotten|forgive forgave forgiven|freeze
froze frozen|give gave given|go went gone|grow grew grown|hang hung|hear heard|hide hid hidden|hold held|keep kept|kneel
knelt|lay laid|lead led|leap leapt|learn learnt|leave left|lend lent|lose lost|make made|mean meant|meet met|pay paid|
prove proven|ride rode ridden|ring rang rung|rise rose risen|run ran|see saw seen|seek sought|sell sold|send sent|sew
sewn|shake shook shaken|shine shone|shoot shot|show shown|shrink shrank shrunk|sing sang sung|sink sank sunk|sit sat|
sleep slept|slide slid|speak spoke spoken|spend spent|spin spun|stand stood|steal stole stolen|stick stuck|strike
struck|swear swore sworn|sweep swept|swim swam swum|swing swung|take took taken|teach taught|tear tore torn|tell told|
think thought|throw threw thrown|understand understood|wake woke woken|wear wore worn|weave wove woven|weep wept|win
won|write wrote written|cry cried|die died dying|dry dried|fry fried|lie lied lying|spy spied|tie tied tying|try tried|
bus buses|focus focused|gas gases|lens lenses|virus viruses|campus campuses|bonus bonuses|child children|person people|
man men|woman women|foot feet|tooth teeth|goose geese|mouse mice|life lives|wife wives|knife knives|leaf leaves|wolf
wolves|half halves|one 1|two 2|three 3|four 4|five 5|six 6|seven 7|eight 8|nine 9|ten 10|twelve 12|mom mum mother|dad
father|grandma grandmother|grandpa grandfather|kid child children|tv television|photo photograph picture|movie film|bike
bicycle|phone telephone|favourite favorite|colour color|neighbour neighbor|grey gray|centre center|theatre theater|
jewellery jewelry|realise realize|recognise recognize|organise organize|apologise apologize"""
_WORDS_TO_A_STEM: Final = 8
_NAMELIKE: Final = re.compile(r"([^\W_]+)(?:['\u2019]s\b)?")
_EXPECTED: Final = (
    (
        re.compile(r"\b(?:when|how long|what (?:time|date|day|month|year)|which (?:date|day|month|year))\b", re.I),
        re.compile(
            r"\b(?:yesterday|today|tonight|tomorrow|ago|last|next|recently|since|weekend|weeks?|months?|years?|"
            r"(?:mon|tues|wednes|thurs|fri|satur|sun)day|(?:19|20)\d\d|january|february|march|april|june|july|august|"
            r"september|october|november|december)\b",
            re.I,
        ),
    ),
    (
        re.compile(r"\bhow (?:many|much|old|far|often|big|tall)\b", re.I),
        re.compile(
            r"\d|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred|thousand|once|twice|couple)\b",
            re.I,
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Wording:
    """What a question says. `terms`: what counts as one word each; `speakers`: the codes of those whom it names."""

    terms: tuple[Term, ...]
    speakers: frozenset[int]
    expected: "re.Pattern[str] | None"
    """What a text contains that can answer: a time for "when", a number for "how many"; None: no telling."""


def read(
    question: str, phrases: Iterable[str], bearers: Callable[[str], Collection[int]], stemmer: Stemmer, most: int
) -> Wording:
    """Understand a question; of its different words the first `most` count. `bearers`: who has a word as a name.

    `phrases` are further parts of it, each of which counts as one of the words.
    """
    given = dict.fromkeys(word.lower() for word in words(question))
    named = {word: codes for word in given if (codes := bearers(word))}
    bare = [word for word in given if word not in STOP_WORDS] or list(given)
    # who speaks is scored by itself, and those who say a name are not who bears it
    content = [word for word in bare if word not in named and word not in STOP_WORDS]
    expected = next((answer for asks, answer in _EXPECTED if asks.search(question)), None)
    further = [phrase for one in dict.fromkeys(phrases) if (phrase := _forms(_telling(one), stemmer, most))]
    terms: list[Term] = [(forms,) for forms in _forms(content or ([] if further else bare), stemmer, most)]
    return Wording((*terms, *further)[:most], _meant(named), expected)


def nameless(question: str, bearers: Callable[[str], Collection[int]]) -> str:
    """The question without the names of those who speak, for an embedder.

    Who speaks is scored by itself, and the texts that are most like a question with a name in it are those that
    address somebody by that name. A question that is nothing but names stays as it is.
    """
    left = _NAMELIKE.sub(lambda match: "" if bearers(match[1].lower()) else match[0], composed(question))
    return left if words(left) else question


def _meant(named: Mapping[str, Collection[int]]) -> frozenset[int]:
    """Of those who share a name, the ones of whose names the most is said: "Ann Smith" is not all of the Smiths."""
    said = Counter(code for codes in named.values() for code in codes)
    best = (max((said[code] for code in codes), default=0) for codes in named.values())
    return frozenset(
        code for codes, most in zip(named.values(), best, strict=True) for code in codes if said[code] == most
    )


def _telling(phrase: str) -> list[str]:
    """The words of a phrase that tell something; there, "may" is a month."""
    return [word for word in dict.fromkeys(words(phrase.lower())) if word not in STOP_WORDS or word == "may"]


def _forms(given: Sequence[str], stemmer: Stemmer, most: int) -> tuple[frozenset[str], ...]:
    """Of each different word, the forms that it may have."""
    given = given[: _WORDS_TO_A_STEM * most]
    forms = _other_forms()
    different = dict(zip(reversed(stems := stemmer.stems(given)), reversed(given), strict=True))
    kept = [stem for stem in dict.fromkeys(stems) if stem][:most]
    return tuple(frozenset({different[stem]}) | forms.get(stem, frozenset()) for stem in kept)


@cache
def _other_forms() -> dict[str, frozenset[str]]:
    """The stem of a word -> the forms of it that have another stem: "buy", "buying", "bought" are one word."""
    groups = [group.split() for group in _IRREGULAR.replace("\n", " ").split("|")]
    stemmer = Stemmer()
    stems = iter(stemmer.stems([form for group in groups for form in group]))
    stemmer.close()
    forms: dict[str, frozenset[str]] = {}
    for group in groups:
        for stem in [next(stems) for _ in group]:
            forms[stem] = forms.get(stem, frozenset()) | frozenset(group)
    return forms
