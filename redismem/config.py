"""Settings: from keyword arguments, or from ``REDISMEM_*`` variables of the environment, or the defaults.

A keyword wins over the environment. Names that do not exist and values that cannot work are a `ConfigError`.
"""

import json
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from redismem.durability import Durability
from redismem.errors import ConfigError, problems
from redismem.search.embedder import Embedder, embedder_of
from redismem.search.ranking import Weights

Seconds = Annotated[float, Field(gt=0, le=100 * 365.25 * 86_400, allow_inf_nan=False)]
Limit = Annotated[int, Field(gt=0)]


def _from_json(value: Any) -> Any:
    """What a variable of the environment says, as what a keyword would."""
    return json.loads(value) if isinstance(value, str) else value


class Settings(BaseModel):
    """How a memory behaves. Frozen; times are seconds, sizes are bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    url: str = Field(default="embedded://", repr=False)
    """Where the server is; see `redismem.link.endpoint`. It may hold a password, so it is never shown."""
    allow_insecure: bool = False
    """Whether servers on other hosts may be talked to without TLS: passwords and data can then be read on the way."""
    prefix: str = "redismem"
    """First segment of every key."""

    session_ttl: Seconds | None = None
    """A session that is idle for this long expires as a whole; `None`: only what is given a TTL expires."""
    refresh_on_read: bool = False
    """Whether reads count as activity for `session_ttl`. Writes always do."""

    max_value_bytes: Limit = 64 * 1024 * 1024
    """Longest document that is stored or read, before compression."""
    max_fields: Limit | None = None
    """Most keys that one namespace of a session may hold. Checked in the script that writes."""
    max_namespaces: Limit | None = None
    """Most namespaces that one session may hold. Checked in the script that writes."""

    max_documents: Limit | None = None
    """Most documents that one scope may hold of a kind (episodes, facts, skills); the least used go first."""
    change_log: Limit = 10_000
    """How many changes of a collection are written down; who has missed more reads the whole collection again."""
    confidence_half_life: Seconds = 365 * 86_400.0
    """After which time the confidence of a fact has halved, unless it was learned again."""
    embedder: Annotated[Embedder | None, BeforeValidator(embedder_of)] = None
    """What makes embeddings of documents, so that searches find what is said in other words; in the environment
    `hashing`, or `sentence-transformers:` and the model's name. None: searches go by words and context."""
    weights: Annotated[Weights | None, BeforeValidator(_from_json)] = None
    """What counts how much in searches: docs/search.md. As JSON in the environment. None: the usual weights."""
    search_documents: Limit = 500_000
    """Most documents of each kind that this process keeps indexed, of all scopes that it searches together."""
    use_half_life: Seconds = 7 * 86_400.0
    """After which time a use counts half, when the least used documents go."""

    history_max_turns: Limit | None = None
    """Most turns that a conversation keeps; the oldest go first."""
    history_max_bytes: Limit | None = None
    """Most bytes that the turns of a conversation take, contents and metadata as they are stored."""
    history_max_tokens: Limit | None = None
    """Most tokens that the turns of a conversation have together."""
    history_ttl: Seconds | None = None
    """A conversation that gets no turn for this long is forgotten; `None`: only what is given a TTL."""
    state_max_depth: Limit = 100
    """How deep the context stack of a state may be."""
    state_ttl: Seconds | None = None
    """A state that is not written to for this long is forgotten; `None`: only what is given a TTL."""
    thread_checkpoints: Limit | None = None
    """Most checkpoints that a thread keeps, the latest ones."""
    thread_ttl: Seconds | None = None
    """A thread that gets no checkpoint for this long is forgotten; `None`: only what is given a TTL."""

    compression: Literal["auto", "zstd", "gzip", "off"] = "auto"
    """`auto` is zstd where it is installed, else gzip, and beyond 1 MiB only where it costs little time."""
    compress_threshold: Limit = 4096
    """Values whose document is at least this long are compressed, if that makes them shorter."""

    timeout: Seconds = 5.0
    """Longest wait for a reply."""
    connect_timeout: Seconds = 5.0
    """Longest wait for a connection."""
    retries: Annotated[int, Field(ge=0)] = 3
    """How often a call that is safe to repeat is sent again after the connection failed."""
    durable: Annotated[Durability | None, BeforeValidator(_from_json)] = None
    """What every write waits for: replicas, disks. As JSON in the environment. None: for neither."""
    update_attempts: Limit = 100
    """How often `update` or a transaction starts over when others changed what it read, before it raises `Conflict`."""
    coherence: Literal["tracking", "ttl", "off"] = "off"
    """Whether reads are served from process memory, and how that stays true: docs/coherence.md. `off`: they are not."""
    coherence_bound: Seconds = 1.0
    """With `tracking`: for how long after another process' write an old value may still be read."""
    l1_ttl: Seconds = 60.0
    """For how long a value is served from process memory before it is read again; with `ttl`, this is the bound."""
    l1_entries: Limit = 100_000
    """Most values that are kept in process memory."""
    l1_bytes: Limit = 64 * 1024 * 1024
    """Most bytes that are kept in process memory, about."""
    l1_stale_while_revalidate: Seconds | None = None
    """For how long after `l1_ttl` a value is still served while it is read again in the background."""
    l1_fail_safe: Seconds | None = None
    """How old a value may be that is served while the server cannot be reached."""
    operation_memory: Seconds = 60.0
    """For how long the server remembers what must not be done twice: longer than all tries of one call may take."""
    embedded_linger: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """How long a shared embedded server stays after its last user left."""

    @classmethod
    def of(
        cls, url: "str | Settings | None" = None, environment: Mapping[str, str] = os.environ, **settings: Any
    ) -> Self:
        """Settings from keywords over the environment over the defaults. Raises `ConfigError`.

        Given settings instead of a URL, the keywords change those, and the environment is not asked.
        """
        if isinstance(url, Settings):
            given: dict[str, Any] = url.model_dump()
        else:
            variables = {name: f"REDISMEM_{name.upper()}" for name in cls.model_fields}
            given = {name: environment[variable] for name, variable in variables.items() if variable in environment}
            given |= {} if url is None else {"url": url}
        try:
            return cls(**given | settings)
        except ValidationError as error:
            raise ConfigError(f"settings: {'; '.join(problems(error))}") from None
