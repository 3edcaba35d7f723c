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


def text(size: int) -> str:
    """Text like a log of an agent's run in JSON: words as frequent as in a language, numbers, ids, structure.

    zstd's fastest level saves 40 % of it. Recorded runs repeat themselves more and save more, in less time.
    """
    draw = random.Random(0)
    words = [_word(draw) for _ in range(5_000)]
    frequency = list(accumulate(1 / (rank + 5) for rank in range(len(words))))
    messages: list[str] = []
    length = 0
    while length < size:
        messages.append(_message(draw, words, frequency))
        length += len(messages[-1]) + 1
    return "\n".join(messages)[:size]


def _word(draw: random.Random) -> str:
    return "".join(draw.choices("etaoinshrdlucmfwypvbgkjqxz", range(26, 0, -1), k=draw.randint(2, 10)))


def _message(draw: random.Random, words: list[str], frequency: list[float]) -> str:
    return json.dumps(
        {
            "id": f"{draw.getrandbits(64):016x}",
            "role": draw.choice(["user", "assistant", "tool"]),
            "at": round(draw.uniform(1.7e9, 1.8e9), 3),
            "content": " ".join(draw.choices(words, cum_weights=frequency, k=draw.randint(5, 120))),
            "tokens": draw.randint(1, 4000),
            "score": draw.random(),
        }
    )
