"""Every exception that redismem raises, in one tree.

::

    RedisMemError
    ├── ConfigError (ValueError)          a URL or a setting that cannot work, or an extra that is not installed
    ├── InvalidKey (ValueError)           an id, a namespace or a key that cannot name anything
    ├── InvalidTTL (ValueError)           a time to live that is not a positive number of seconds
    ├── CodecError (ValueError)
    │   ├── EncodeError                   a value that has no exact stored form; ``path`` says where
    │   └── DecodeError                   stored bytes that are no value; ``key`` says which
    ├── SchemaError (ValueError)          a model, or a value for it, that cannot be stored as declared
    ├── EmbedderFailed                    the embedder raised an error, which is its ``__cause__``
    ├── LimitExceeded                     a call that would pass a limit; nothing was changed
    ├── MissingEntity                     a relationship that has an end which does not exist; nothing was changed
    ├── OwnerMismatch                     the session belongs to another user; nothing was changed
    ├── Conflict                          others kept changing the value; the last attempt was not written
    ├── PartitionMismatch (ValueError)    a transaction that reaches outside its partition; nothing was sent
    ├── LockError
    │   ├── LockTimeout (TimeoutError)    others held the lock for as long as the caller would wait
    │   ├── LockLost                      the holder's lease went: another may hold the lock
    │   └── StaleFence                    a write under a lock that another holder has had since; nothing was changed
    ├── Suspended (RuntimeError)          a blocking call met something that needs an event loop
    ├── NotReady (RuntimeError)           a batch's result was asked for before the batch was sent
    └── LinkError
        ├── LinkClosed                    the memory was closed
        ├── Unavailable (ConnectionError) the server cannot be reached, or went away
        ├── Timeout (TimeoutError)        the server did not answer in time
        ├── NotDurable                    written, but not confirmed by as many replicas or disks as were asked for
        └── ServerError                   the server answered with an error
            ├── AuthenticationFailed
            ├── PermissionDenied          the ACL forbids the command or the key
            ├── OutOfMemory               maxmemory is reached and nothing may be evicted
            ├── ReadOnly                  the server is a replica, or cannot persist
            ├── Busy                      the server is loading its data, or runs a long script
            └── WrongType                 the key or field holds something else

Exceptions of redis-py never reach a caller: the link translates them. Bad input changes nothing.
"""

from collections.abc import Iterable

from pydantic import ValidationError


class RedisMemError(Exception):
    """The root: ``except RedisMemError`` catches everything that redismem raises."""


class ConfigError(RedisMemError, ValueError):
    """A URL or a setting cannot work, or needs an extra that is not installed."""


class InvalidKey(RedisMemError, ValueError):
    """An id, a namespace or a key is empty, too long, not a string or not encodable as UTF-8."""


class InvalidTTL(RedisMemError, ValueError):
    """A time to live is not a finite, positive number of seconds."""


class CodecError(RedisMemError, ValueError):
    """A value and its stored bytes do not meet."""


class EncodeError(CodecError):
    """A value has no exact stored form. ``path`` is where, such as ``$.items[3].owner``."""

    def __init__(self, message: str, path: str = "$") -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class DecodeError(CodecError):
    """Stored bytes are no value that redismem wrote. ``key`` names them, as ``<redis key>[<field>]``."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(f"{key}: {message}" if key else message)
        self.message = message
        self.key = key


class SchemaError(RedisMemError, ValueError):
    """A model that cannot be stored, or a value that its model does not allow. Nothing was sent."""


class EmbedderFailed(RedisMemError):
    """The embedder of this process raised an error, which is the ``__cause__``. Nothing was sent."""


class LimitExceeded(RedisMemError):
    """A call would pass a limit, of the settings or its own. Nothing was changed."""


class MissingEntity(RedisMemError):
    """Ends of relationships do not exist: ``entity_ids``. Nothing was changed."""

    def __init__(self, entity_ids: Iterable[str]) -> None:
        self.entity_ids = tuple(entity_ids)
        named = ", ".join(map(repr, self.entity_ids))
        super().__init__(f"there is no entity {named}: add it first, or in the same merge; nothing was changed")


class OwnerMismatch(RedisMemError):
    """The session belongs to another user than the ``user_id`` given. Nothing was changed."""


class Conflict(RedisMemError):
    """Others changed the value at every attempt. The last attempt was not written."""


class PartitionMismatch(RedisMemError, ValueError):
    """A transaction would reach a key outside the partition that it was opened for. Nothing was sent."""


class LockError(RedisMemError):
    """What goes wrong with locks."""


class LockTimeout(LockError, TimeoutError):
    """Others held the lock for as long as the caller would wait. Nothing of the attempt is left."""


class LockLost(LockError):
    """The holder's lease went before it released the lock: another may hold it since."""


class StaleFence(LockError):
    """A write came with the fencing token of an earlier holder of the lock. Nothing was changed."""


class Suspended(RedisMemError, RuntimeError):
    """A blocking call met something that waits for an event loop; use the async flavour for it."""


class NotReady(RedisMemError, RuntimeError):
    """A batch's result was asked for before the batch was sent."""


class LinkError(RedisMemError):
    """Something between the process and the server, or the server itself, failed."""


class LinkClosed(LinkError):
    """The memory was closed; make a new one."""


class Unavailable(LinkError, ConnectionError):
    """The server cannot be reached or went away; the message says whether the call may have been applied."""


class Timeout(LinkError, TimeoutError):
    """The server did not answer in time. The message says whether the call may have been applied."""


class NotDurable(LinkError):
    """The write was applied, but fewer replicas or disks than asked for confirmed it in time."""


class ServerError(LinkError):
    """The server answered with an error."""


class AuthenticationFailed(ServerError):
    """The server refused the credentials, or wants some."""


class PermissionDenied(ServerError):
    """The server's ACL forbids the command or the key."""


class OutOfMemory(ServerError):
    """The server reached maxmemory and its policy forbids eviction."""


class ReadOnly(ServerError):
    """The server takes no writes: a replica, too few replicas, or persistence that fails."""


class Busy(ServerError):
    """The server is loading its data set or runs a long script; try again later."""


class WrongType(ServerError):
    """The key or the field holds something that the operation cannot work on."""


def problems(error: ValidationError) -> list[str]:
    """What is wrong with which attribute or setting, without the values: one may be a password."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found]
