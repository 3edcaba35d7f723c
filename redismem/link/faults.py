"""Foreign exceptions become redismem's own, here and nowhere else.

A :class:`Fault` is a connection that failed under an exchange; the link retries it or raises it. An error *reply* is
an answer, and becomes a :class:`~redismem.errors.ServerError` by the first word that the server said.
"""

import re
from collections.abc import Sequence
from typing import Any, Self

import redis
import redis.exceptions

from redismem.errors import (
    AuthenticationFailed,
    Busy,
    LinkError,
    OutOfMemory,
    PermissionDenied,
    ReadOnly,
    ServerError,
    Timeout,
    Unavailable,
    WrongType,
)


class NoScript(ServerError):
    """The server has forgotten the script. It never reaches a caller: the script is sent again."""


class Demoted(ReadOnly):
    """The server is a replica, perhaps since a moment ago; where somebody knows the primary, the link looks for it."""


class Aborted(ServerError):
    """A transaction was refused as a whole, because of a command in it that was refused before."""


class Redirected(ServerError):
    """The slot of the keys is with another node of the cluster. The cluster's link goes there."""

    slot: int
    host: str
    """Empty: the host that said so."""
    port: int
    asking: bool
    """Whether the slot is only moving there (ASK): the node takes the command after ASKING."""

    @classmethod
    def of(cls, message: str, error: redis.exceptions.AskError) -> Self:
        """From what the server said."""
        redirected = cls(message)
        redirected.slot, redirected.host, redirected.port = error.slot_id, error.host, error.port
        redirected.asking = not isinstance(error, redis.exceptions.MovedError)
        return redirected


class Deserted(Unavailable):
    """Nobody is there who could say which server is the primary: waiting for a failover is of no use."""


_BY_FIRST_WORD: dict[str, tuple[type[ServerError], str]] = {
    "OOM": (OutOfMemory, "free memory, raise maxmemory, or give keys a TTL"),
    "WRONGTYPE": (WrongType, "another program writes this key; give redismem a prefix of its own"),
    "NOPERM": (PermissionDenied, "grant the user this command and key pattern (docs/keys.md)"),
    "NOAUTH": (AuthenticationFailed, "put user and password into the URL"),
    "WRONGPASS": (AuthenticationFailed, "check user and password in the URL"),
    "READONLY": (Demoted, "connect to the primary"),
    "MISCONF": (ReadOnly, "the server cannot persist: look at its log and disk"),
    "NOREPLICAS": (ReadOnly, "too few replicas are connected (min-replicas-to-write)"),
    "LOADING": (Busy, "the server is loading its data"),
    "BUSY": (Busy, "a script runs too long on the server"),
    "MASTERDOWN": (Busy, "the replica has lost its primary"),
    "NOSCRIPT": (NoScript, ""),
    "TRYAGAIN": (Busy, "the slot is moving to another node"),
    "CLUSTERDOWN": (Busy, "the cluster does not serve this slot: look at CLUSTER INFO"),
    "EXECABORT": (Aborted, ""),
    "CROSSSLOT": (ServerError, "the keys of one command must share a hash tag"),
}
ANSWERS = (
    redis.ResponseError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.AuthenticationError,
    redis.exceptions.AuthorizationError,
)
"""Error replies. redis-py counts some of them as broken connections, which they are not."""

_WHERE = re.compile(
    r"^((ERR )?Error running script \(call to \w+\): @\w+:\d+: )?(@\w+: \d+: -?)?|( script: (\w+, )?on @\w+:\d+\.?)$"
)
"""Where in a script an error arose, as Redis 6.2 and newer servers say it: nothing that a caller can use."""
_NOT_AN_INTEGER = "hash value is not an integer"
_BARRED_IN_SCRIPT = re.compile("ACL failure in script|The user executing the script can't")


class Fault(Exception):
    """A connection that failed: `cause` says how, `unsent` that no byte of the commands had left."""

    def __init__(self, cause: Exception, *, unsent: bool) -> None:
        super().__init__(str(cause) or type(cause).__name__)
        self.cause = cause
        self.unsent = unsent

    def as_error(self, server: str, *, applied_unknown: bool) -> LinkError:
        """The typed error that a caller gets when no attempt is left."""
        if isinstance(self.cause, LinkError):
            return self.cause
        kind = Timeout if isinstance(self.cause, (redis.TimeoutError, TimeoutError)) else Unavailable
        outcome = "the call may have been applied" if applied_unknown else "nothing was sent"
        refused = _refusal_at_connect(self.cause)
        if refused is not None:
            return refused
        return kind(f"{server}: {self} ({outcome}); check that the server is up and reachable")


def _refusal_at_connect(cause: BaseException | None) -> ServerError | None:
    """A server that refuses the handshake has answered: its answer, not the broken connection, is the error."""
    if isinstance(cause, redis.AuthenticationError):
        return AuthenticationFailed(f"{str(cause).rstrip('.')}: check user and password in the URL")
    if isinstance(cause, redis.ResponseError):
        return server_error(cause, ())
    return None


def server_error(error: redis.RedisError, command: tuple[Any, ...]) -> ServerError:
    """The typed error for an error reply to `command`; its message names the key, never a value."""
    text = _text_of(error)
    kind, advice = _BY_FIRST_WORD.get(text.partition(" ")[0], (ServerError, ""))
    if _NOT_AN_INTEGER in text:
        kind, advice = WrongType, "only integers can be incremented"
    elif _BARRED_IN_SCRIPT.search(text):
        kind, advice = _BY_FIRST_WORD["NOPERM"]
    if isinstance(error, redis.exceptions.AskError):
        return Redirected.of(f"{_place(command)}: {text}: use a redis+cluster:// URL", error)
    parts = [part for part in (_place(command), text, advice) if part]
    return kind(": ".join(parts))


def translated(replies: Sequence[Any], command: tuple[Any, ...] = ()) -> Sequence[Any]:
    """The replies inside a reply to `command`, with redis-py's errors among them made redismem's own."""
    return [server_error(reply, command) if isinstance(reply, redis.RedisError) else reply for reply in replies]


def _text_of(error: redis.RedisError) -> str:
    """The server's words. redis-py strips the first word of the errors for which it has a class."""
    text = _WHERE.sub("", str(error))
    for word, kind in _STRIPPED:
        if isinstance(error, kind) and not text.startswith(word):
            return f"{word} {text}"
    return text


_STRIPPED: tuple[tuple[str, type[redis.RedisError]], ...] = (
    ("NOSCRIPT", redis.exceptions.NoScriptError),
    ("OOM", redis.exceptions.OutOfMemoryError),
    ("NOPERM", redis.exceptions.NoPermissionError),
    ("READONLY", redis.exceptions.ReadOnlyError),
    ("LOADING", redis.exceptions.BusyLoadingError),
    ("EXECABORT", redis.exceptions.ExecAbortError),
    ("MOVED", redis.exceptions.MovedError),  # before the class that it is derived from, as MASTERDOWN
    ("ASK", redis.exceptions.AskError),
    ("TRYAGAIN", redis.exceptions.TryAgainError),
    ("MASTERDOWN", redis.exceptions.MasterDownError),
    ("CLUSTERDOWN", redis.exceptions.ClusterDownError),
    ("CROSSSLOT", redis.exceptions.ClusterCrossSlotError),
    ("WRONGPASS", redis.exceptions.AuthenticationError),
)


def _place(command: tuple[Any, ...]) -> str:
    """`COMMAND key`, as far as the command has a key; of a script's keys the second, which holds the values."""
    if not command:
        return ""
    position = 1
    if command[0] in ("EVALSHA", "EVAL"):
        position = 4 if int(command[2]) > 1 else 3
    key = command[position] if len(command) > position else ""
    return f"{command[0]} {key.decode(errors='replace') if isinstance(key, bytes) else key}".strip()
