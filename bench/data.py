"""What is stored while measuring: keys, values of 200 bytes, and texts and bytes of five megabytes."""

import json
import random
import string
from itertools import accumulate

VALUE_BYTES = 200
LARGE_BYTES = 5_000_000


def keys(count: int) -> list[str]:
    """Names of fields, in no order."""
    names = [f"key:{number:06}" for number in range(count)]
    random.Random(count).shuffle(names)
    return names


def value() -> str:
    """Text of 200 bytes."""
    return "".join(random.Random(0).choices(string.ascii_letters + string.digits + " ", k=VALUE_BYTES))


def text(size: int, *, repetitive: bool) -> str:
    """Text like the log of an agent's run in JSON lines: words as frequent as in a language, numbers, ids, structure.

    In repetitive text most messages say nearly what another one said before, as prompts and replies of tools do.
    zstd at its fast level -5 shortens varied text by 40 %, repetitive text by 80 %.
    """
    draw = random.Random(0)
    words = [_word(draw) for _ in range(5_000)]
    frequency = list(accumulate(1 / (rank + 5) for rank in range(len(words))))
    said = [_content(draw, words, frequency) for _ in range(30)]
    messages: list[str] = []
    length = 0
    while length < size:
        again = repetitive and draw.random() < 0.97
        content = _nearly(draw, draw.choice(said), words) if again else _content(draw, words, frequency)
        messages.append(_message(draw, content))
        length += len(messages[-1]) + 1
    return "\n".join(messages)[:size]


def _word(draw: random.Random) -> str:
    return "".join(draw.choices("etaoinshrdlucmfwypvbgkjqxz", range(26, 0, -1), k=draw.randint(2, 10)))


def _content(draw: random.Random, words: list[str], frequency: list[float]) -> str:
    return " ".join(draw.choices(words, cum_weights=frequency, k=draw.randint(5, 120)))


def _nearly(draw: random.Random, content: str, words: list[str]) -> str:
    return " ".join(draw.choice(words) if draw.random() < 0.03 else word for word in content.split())


def _message(draw: random.Random, content: str) -> str:
    return json.dumps(
        {
            "id": f"{draw.getrandbits(64):016x}",
            "role": draw.choice(["user", "assistant", "tool"]),
            "at": round(draw.uniform(1.7e9, 1.8e9), 3),
            "content": content,
            "tokens": draw.randint(1, 4000),
            "score": draw.random(),
        }
    )
