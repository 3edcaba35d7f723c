"""Embedders: the default is the same everywhere, and any function can be one."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redismem.errors import ConfigError, SchemaError
from redismem.search import Callable, Embedder, Hashing, SentenceTransformers

TEXTS = ["The Café is open", "cafe opened", "an umbrella", ""]


def test_the_default_is_the_same_in_every_process() -> None:
    code = f"from redismem.search import Hashing; print(Hashing(64).embed({TEXTS!r}).tobytes().hex())"
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert said == {Hashing(64).embed(TEXTS).tobytes().hex().encode() + b"\n"}


def test_what_is_spelled_alike_is_alike() -> None:
    cafe, opened, umbrella, nothing = Hashing().embed(TEXTS)
    assert cafe @ opened > 0.3 > cafe @ umbrella
    assert not nothing.any()
    assert Hashing().embed(["CAFÉ"])[0] @ Hashing().embed(["cafe"])[0] == pytest.approx(1)


@given(st.lists(st.text(), max_size=5))
def test_any_text_has_a_vector(texts: list[str]) -> None:
    matrix = Hashing(16).embed(texts)
    assert (matrix.shape, matrix.dtype) == ((len(texts), 16), np.float32)
    lengths = np.linalg.norm(matrix, axis=1)
    assert np.all(np.isclose(lengths, 1, atol=1e-5) | (lengths == 0))


def test_a_function_is_an_embedder() -> None:
    lengths = Callable(lambda texts: [[len(text), 1] for text in texts], 2, "lengths")
    assert lengths.embed(["a", "abc"]).tolist() == [[1, 1], [3, 1]]
    assert lengths.embed([]).shape == (0, 2)
    assert isinstance(lengths, Embedder)
    assert isinstance(Hashing(), Embedder)
    with pytest.raises(SchemaError, match="lengths"):
        Callable(lambda texts: [[1.0]], 2, "lengths").embed(["a", "b"])


def test_a_model_of_sentence_transformers_is_an_embedder() -> None:
    class Model:
        def encode(self, texts: Any) -> np.ndarray:
            return np.ones((len(texts), 5))

    model = SentenceTransformers(Model())
    assert (model.dimensions, model.embed(["a"]).shape) == (5, (1, 5))


def test_without_the_package_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match="sentence-transformers"):
        SentenceTransformers("some-model")


def test_dimensions_must_be_some() -> None:
    with pytest.raises(ConfigError):
        Hashing(0)
