"""Conversations of two people over many sessions, made up, with questions whose evidence is one turn each.

Talk about a thing often names it once, then goes on with "it". Questions use other words than answers do ("buy",
"bought", or a synonym that no stemmer knows), both people talk of the same things, and come back to them months later.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from redismem.search import Document, Index, Query, Weights

PEOPLE = ("Caleb", "Mirela")
DEEDS = {
    # the question's words -> what the evidence says
    "buy a {thing}": "I finally bought one{when}, a {colour} one",
    "lose the {thing}": "I lost mine{when} on the way to {place}, can you believe it",
    "repair the {thing}": "We got it fixed{when} with help from {friend}",
    "give away a {thing}": "I gave it to {friend}{when}, {friend} was so happy",
    "find an old {thing}": "I found an old {thing}{when} in the cellar, {colour} and full of dust",
    "sell the {thing}": "I sold it{when} for {number} euros to {friend}",
    "take the {thing} to {place}": "I took my {thing} to {place}{when}, {friend} came along",
    "learn to use a {thing}": "{friend} taught me{when} how it works, it took {number} hours",
    "dream about a {thing}": "I dreamt about a {colour} {thing}{when}, woke up laughing",
    "break a {thing}": "Mine broke{when}, right in front of {friend}",
}
THINGS = """
guitar kayak telescope bicycle camera tent violin kettle drone notebook lamp carpet canoe piano scooter
skateboard microscope printer sofa bookshelf helmet backpack clarinet easel loom blender toaster aquarium
greenhouse sledge
""".split()  # noqa: SIM905  (lists of words are easier to read)
PLACES = ["Lisbon", "Oslo", "Porto", "Vienna", "Ghent", "Turin", "Zagreb", "Tartu", "Cork", "Bergen"]
FRIENDS = ["Ines", "Tomas", "Greta", "Pavel", "Noor", "Silas", "Wanda", "Otto"]
COLOURS = ["red", "green", "blue", "yellow", "purple", "white", "black", "orange"]
WHENS = (" yesterday", " last week", " two days ago", " on Monday", " last month", "")
OPENERS = (
    "Hey {other}, how have you been?",
    "Hi {other}! Long time no see.",
    "Good to hear from you, {other}. Work has been busy.",
)
ASIDES = (
    "That sounds wonderful, {other}!",
    "I was at the lake with my family, so peaceful.",
    "You always have the best stories, {other}.",
    "My sister visited us and we cooked all day.",
    "The weather here is awful, it rains and rains.",
    "I read a good book about mountains and the people who climb them.",
    "Wow, I can see why. How did that make you feel?",
    "We should meet and go for a walk, {other}.",
    "I think it helps to take a break now and then.",
    "Thanks, that means a lot to me.",
)
MENTIONS = (
    "Do you still think about the {thing}?",
    "I saw a {thing} in a shop window and thought of you, {other}.",
    "My neighbour talks about the {thing} all the time.",
    "A {thing} is always a nice topic, isn't it?",
)
ASKS = (
    "What about the {thing} you talked about?",
    "So, any news about the {thing}?",
    "How is it going with the {thing}?",
)


@dataclass(frozen=True)
class Question:
    text: str
    evidence: str


Talk = tuple[list[Document], list[Question]]


def by_words(index: Index, question: str) -> Query:
    """A question as it is, to an index."""
    del index
    return Query(question)


def recall(
    talks: Iterable[Talk], weights: Weights | None = None, asking: Callable[[Index, str], Query] = by_words
) -> float:
    """Of the evidence, how much is in the first ten."""
    found = asked = 0
    for documents, questions in talks:
        index = Index(weights)
        index.apply(documents, [])
        for question in questions:
            found += question.evidence in [hit.id for hit in index.search(asking(index, question.text))]
        asked += len(questions)
    return found / asked


def conversation(seed: int, sessions: int = 25, talks: int = 4) -> Talk:
    """What was said, and what can be asked about it."""
    draw = random.Random(seed)
    documents: list[Document] = []
    questions: list[Question] = []
    start = datetime(2023, 1, 5, 18, tzinfo=UTC)
    for number in range(sessions):
        start += timedelta(days=draw.randint(5, 20))
        turns: list[tuple[int, str, str | None]] = [(draw.randint(0, 1), draw.choice(OPENERS), None)]
        for _ in range(talks):
            turns += _talk(draw)
            for _ in range(draw.randint(1, 3)):
                turns.append((1 - turns[-1][0], draw.choice(ASIDES + MENTIONS), None))
        for place, (speaker, said, asked) in enumerate(turns):
            filled = {
                "thing": draw.choice(THINGS),
                "other": PEOPLE[1 - speaker],
                "place": draw.choice(PLACES),
                "friend": draw.choice(FRIENDS),
            }
            one = f"D{number}:{place}"
            documents.append(
                Document(
                    one,
                    said.format(**filled),
                    (start + timedelta(minutes=place)).timestamp(),
                    f"s{number}",
                    PEOPLE[speaker],
                )
            )
            if asked is not None:
                when = draw.choice(["", "", "", f" in {start:%B}"])
                questions.append(Question(asked.format(name=PEOPLE[speaker], when=when), one))
    return documents, questions


def _talk(draw: random.Random) -> list[tuple[int, str, str | None]]:
    """About one thing: it is named, sometimes asked for, and then something happened to it."""
    speaker, thing = draw.randint(0, 1), draw.choice(THINGS)
    deed = draw.choice(list(DEEDS))
    facts = {
        "thing": thing,
        "place": draw.choice(PLACES),
        "friend": draw.choice(FRIENDS),
        "colour": draw.choice(COLOURS),
        "when": draw.choice(WHENS),
        "number": str(draw.randint(2, 90)),
    }
    asked = draw.choice(
        ["When did {{name}} {0}{{when}}?", "Did {{name}} {0}{{when}}?", "Who was there when {{name}} {0}?"]
    )
    question = asked.format(deed.format(**facts)).replace("{{", "{").replace("}}", "}")
    evidence = DEEDS[deed].format(**facts) + "."
    turns: list[tuple[int, str, str | None]] = []
    if draw.random() < 0.6:
        turns.append((1 - speaker, draw.choice(ASKS).format(**facts), None))
    else:
        turns.append((speaker, f"You know, the {thing} is on my mind a lot.", None))
        if draw.random() < 0.5:
            turns.append((1 - speaker, "Oh, tell me more, {other}!", None))
    return [*turns, (speaker, evidence, question)]
