r"""Every key name is built here, and nowhere else.

A key is `<prefix>:<kind>:{<id>}:<what>[:<name>]`, such as `redismem:session:{abc}:ns:flags`. Ids and names are
percent-encoded, one to one, into `A-Za-z0-9._~-` and `%`. So no id can reach another id's key, leave its hash tag
or act as a glob; two different ids never share a key; and every key of one session has the id as its hash tag, which
keeps the session in one slot of a cluster. The fields of a hash are the caller's keys as they are.

Whatever cannot name anything is an `InvalidKey` before anything is sent.
"""

import re
import reprlib
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote_from_bytes, unquote_to_bytes

from redismem.errors import ConfigError, InvalidKey

MAX_BYTES = 512
"""What a segment (percent-encoded) or a field may take, in bytes."""

_SAFE = re.compile(rf"[A-Za-z0-9._~-]{{1,{MAX_BYTES}}}")
_PREFIX = re.compile(r"[A-Za-z0-9._~-]+(?::[A-Za-z0-9._~-]+)*")
_GLOB = re.compile(r"[*?\[\]\\^-]")


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of all keys under one `prefix`.

    The prefix is one or more segments of `A-Za-z0-9._~-` joined by `:`, else `ConfigError`. Every method that
    takes an id or a name raises `InvalidKey` when it is empty, no `str`, not text, or too long.
    """

    prefix: str = "redismem"

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, str) or not _PREFIX.fullmatch(self.prefix):
            raise ConfigError(
                f"the key prefix {reprlib.repr(self.prefix)} cannot be used: "
                "it takes segments of letters, digits, '.', '_', '~' and '-', joined by ':'"
            )

    def session_meta(self, session_id: str) -> str:
        """The hash that describes a session: `redismem:session:{abc}:meta`."""
        return self._session(session_id, "meta")

    def session_namespace(self, session_id: str, namespace: str) -> str:
        """The hash of a namespace's values: `redismem:session:{abc}:ns:flags`."""
        return self._session(session_id, "ns", namespace)

    def session_deadlines(self, session_id: str, namespace: str) -> str:
        """The sorted set of a namespace's field deadlines: `redismem:session:{abc}:ttl:flags`.

        Only servers whose fields cannot expire by themselves have it.
        """
        return self._session(session_id, "ttl", namespace)

    def kept_prefixes(self) -> tuple[str, ...]:
        """What the names of all keys begin with that L1 may keep something of, such as `redismem:session:`."""
        return tuple(f"{self.prefix}:{kind}:" for kind in ("session", "user", "scope"))

    def kept_hash(self, key: str) -> str:
        """Whose values change with this key: deadlines and logs belong to their hash, any other key to itself."""
        if key.startswith(f"{self.prefix}:session:"):
            return key.replace("}:ttl:", "}:ns:", 1)
        return key.replace("}:ttl:", "}:", 1).replace("}:log:", "}:", 1)

    def session_operations(self, session_id: str) -> str:
        """The hash of operations lately applied to a session, so that none is applied twice: `...:{abc}:ops`."""
        return self._session(session_id, "ops")

    def lock(self, user_id: str, name: str) -> str:
        """The hash of those who hold a lock: `redismem:user:{42}:lock:default`."""
        return self._user(user_id, "lock", name)

    def lock_queue(self, user_id: str, name: str) -> str:
        """The sorted set of those who wait for a lock, by arrival: `redismem:user:{42}:queue:default`."""
        return self._user(user_id, "queue", name)

    def lock_waiting(self, user_id: str, name: str) -> str:
        """The hash of what those who wait have said of themselves: `redismem:user:{42}:waiting:default`."""
        return self._user(user_id, "waiting", name)

    def lock_fence(self, user_id: str, name: str) -> str:
        """The greatest fencing token of a lock; it outlives the lock: `redismem:user:{42}:fence:default`."""
        return self._user(user_id, "fence", name)

    def lock_wake(self, user_id: str, name: str, owner: str) -> str:
        """The list by which one waiter is woken: `redismem:user:{42}:wake:default:<owner>`."""
        return self._user(user_id, "wake", name, owner)

    def user_operations(self, user_id: str) -> str:
        """The hash of operations lately applied to a user's memories, so that none is applied twice: `...:{42}:ops`."""
        return self._user(user_id, "ops")

    def context(self, user_id: str) -> str:
        """The hash of a user's context: `redismem:user:{42}:context`."""
        return self._user(user_id, "context")

    def record(self, user_id: str, name: str, record_id: str) -> str:
        """The hash of one record: `redismem:user:{42}:record:trip:7`."""
        return self._user(user_id, "record", name, record_id)

    def records(self, user_id: str, name: str) -> str:
        """The hash that lists a user's records of one name: `redismem:user:{42}:records:trip`."""
        return self._user(user_id, "records", name)

    def entities(self, user_id: str, kind: str) -> str:
        """The hash of all entities of one kind that a user knows: `redismem:user:{42}:entities:contacts`."""
        return self._user(user_id, "entities", kind)

    def quarantine(self, user_id: str, kind: str) -> str:
        """The hash of fields of entities that could not be read: `redismem:user:{42}:quarantine:contacts`."""
        return self._user(user_id, "quarantine", kind)

    def forgotten(self, user_id: str) -> str:
        """The set of forgotten entities of which the index was not yet told: `redismem:user:{42}:forgotten`."""
        return self._user(user_id, "forgotten")

    def entity_users(self, kind: str, identity: str) -> str:
        """The set of users who may know an entity: `redismem:entity:{contacts%3Aid%3D7}:users`."""
        return f"{self.prefix}:entity:{{{encode_segment(f'{kind}:{identity}', 'identity')}}}:users"

    def collection(self, scope: str, kind: str) -> str:
        """The hash of a scope's documents of one kind: `redismem:scope:{team-a}:episodes`."""
        return self._scope(scope, kind)

    def collection_log(self, scope: str, kind: str) -> str:
        """The stream of what changed in a collection: `redismem:scope:{team-a}:log:episodes`."""
        return self._scope(scope, "log", kind)

    def collection_meta(self, scope: str, kind: str) -> str:
        """The hash of what is counted in a collection: `redismem:scope:{team-a}:meta:episodes`."""
        return self._scope(scope, "meta", kind)

    def collection_use(self, scope: str, kind: str) -> str:
        """The sorted set of how much documents are used: `redismem:scope:{team-a}:use:episodes`."""
        return self._scope(scope, "use", kind)

    def collection_vectors(self, scope: str, kind: str) -> str:
        """The hash of embeddings of documents: `redismem:scope:{team-a}:vectors:episodes`."""
        return self._scope(scope, "vectors", kind)

    def scope_operations(self, scope: str) -> str:
        """The hash of operations lately applied to a scope, so that none is applied twice: `...:{team-a}:ops`."""
        return self._scope(scope, "ops")

    def graph(self, user_id: str) -> tuple[str, str, str, str]:
        """The keys of a user's graph: `redismem:user:{42}:graph:entities`, `...:out`, `...:in`, `...:properties`."""
        entities, out, into = (self._user(user_id, "graph", what) for what in ("entities", "out", "in"))
        return entities, out, into, self.graph_properties(user_id)

    def graph_properties(self, user_id: str) -> str:
        """The hash of what the entities and relationships of a graph have: `redismem:user:{42}:graph:properties`."""
        return self._user(user_id, "graph", "properties")

    def history(self, user_id: str, conversation: str) -> str:
        """The stream of the turns of a conversation: `redismem:user:{42}:history:default`."""
        return self._user(user_id, "history", conversation)

    def conversations(self, user_id: str) -> str:
        """The sorted set of a user's conversations, by when they end: `redismem:user:{42}:conversations`."""
        return self._user(user_id, "conversations")

    def preferences(self, user_id: str) -> str:
        """The hash of a user's preferences: `redismem:user:{42}:preferences`."""
        return self._user(user_id, "preferences")

    def temporal(self, user_id: str) -> str:
        """The hash of values that are true of a user for a while: `redismem:user:{42}:temporal`."""
        return self._user(user_id, "temporal")

    def state(self, session_id: str) -> str:
        """The hash of what an agent is about in a session: `redismem:session:{abc}:state`."""
        return self._session(session_id, "state")

    def thread_versions(self, thread_id: str) -> str:
        """The sorted set of a thread's checkpoints: `redismem:thread:{t1}:versions`."""
        return self._thread(thread_id, "versions")

    def thread_states(self, thread_id: str) -> str:
        """The hash of a thread's states, by version: `redismem:thread:{t1}:states`."""
        return self._thread(thread_id, "states")

    def thread_operations(self, thread_id: str) -> str:
        """The hash of operations lately applied to a thread, so that none is applied twice: `...:{t1}:ops`."""
        return self._thread(thread_id, "ops")

    def thread_versions_pattern(self) -> str:
        """What `SCAN MATCH` takes to find the `thread_versions` of every thread."""
        return f"{escape_glob(self.prefix)}:thread:{{*}}:versions"

    def thread_id_of(self, versions_key: bytes | str) -> str:
        """The id whose `thread_versions` is `versions_key`; `InvalidKey` when there is none."""
        return self._id_of("thread", "versions", versions_key)

    def deadlines(self, key: str) -> str:
        """The sorted set of the field deadlines of a user's or scope's hash: `redismem:user:{42}:ttl:context`.

        Only servers whose fields cannot expire by themselves have it.
        """
        return key.replace("}:", "}:ttl:", 1)

    def context_pattern(self) -> str:
        """What `SCAN MATCH` takes to find the `context` of every user."""
        return f"{escape_glob(self.prefix)}:user:{{*}}:context"

    def context_id_of(self, context_key: bytes | str) -> str:
        """The user whose `context` is `context_key`; `InvalidKey` when there is none."""
        return self._id_of("user", "context", context_key)

    def record_pattern(self, name: str) -> str:
        """What `SCAN MATCH` takes to find every `record` of one name."""
        return f"{escape_glob(self.prefix)}:user:{{*}}:record:{escape_glob(encode_segment(name, 'name'))}:*"

    def record_ids_of(self, record_key: bytes | str) -> tuple[str, str]:
        """The user and the id of the `record` that is `record_key`; `InvalidKey` when there is none."""
        user_id, _, record_id = self._user_names_of("record", 2, record_key)
        return user_id, record_id

    def lock_pattern(self) -> str:
        """What `SCAN MATCH` takes to find every `lock`."""
        return f"{escape_glob(self.prefix)}:user:{{*}}:lock:*"

    def lock_names_of(self, lock_key: bytes | str) -> tuple[str, str]:
        """The user and the name of the `lock` that is `lock_key`; `InvalidKey` when there is none."""
        user_id, name = self._user_names_of("lock", 1, lock_key)
        return user_id, name

    def session_meta_pattern(self) -> str:
        """What `SCAN MATCH` takes to find the `session_meta` of every session."""
        return f"{escape_glob(self.prefix)}:session:{{*}}:meta"

    def session_id_of(self, meta_key: bytes | str) -> str:
        """The id whose `session_meta` is `meta_key`; `InvalidKey` when there is none."""
        return self._id_of("session", "meta", meta_key)

    def _id_of(self, kind: str, what: str, key: bytes | str) -> str:
        head, tail = f"{self.prefix}:{kind}:{{", f"}}:{what}"
        try:
            name = key.decode() if isinstance(key, bytes) else key
            if name.startswith(head) and name.endswith(tail):
                return decode_segment(name[len(head) : -len(tail)])
        except (InvalidKey, UnicodeDecodeError, AttributeError):
            pass
        raise InvalidKey(f"{_shown(key)} is no {kind}'s {what} key under the prefix {self.prefix!r}")

    def _user_names_of(self, part: str, count: int, key: bytes | str) -> list[str]:
        """The user id and the `count` names of a key that `_user` made of this part."""
        head = f"{self.prefix}:user:{{"
        try:
            name = key.decode() if isinstance(key, bytes) else key
            user_id, _, what = name.removeprefix(head).partition("}:")
            found, *names = what.split(":")
            if name.startswith(head) and found == part and len(names) == count:
                return [decode_segment(segment) for segment in (user_id, *names)]
        except (InvalidKey, UnicodeDecodeError, AttributeError):
            pass
        raise InvalidKey(f"{_shown(key)} is no user's {part} key under the prefix {self.prefix!r}")

    def _user(self, user_id: str, part: str, *names: str) -> str:
        segments = [part, *(encode_segment(name, "name") for name in names)]
        return f"{self.prefix}:user:{{{encode_segment(user_id, 'user_id')}}}:{':'.join(segments)}"

    def _thread(self, thread_id: str, what: str) -> str:
        return f"{self.prefix}:thread:{{{encode_segment(thread_id, 'thread_id')}}}:{what}"

    def _scope(self, scope: str, *names: str) -> str:
        return f"{self.prefix}:scope:{{{encode_segment(scope, 'scope')}}}:{':'.join(names)}"

    def _session(self, session_id: str, part: str, *names: str) -> str:
        try:
            return _session_key(self.prefix, session_id, part, *names)
        except TypeError:  # something that cannot be hashed, so the cache cannot judge it
            return _session_key.__wrapped__(self.prefix, session_id, part, *names)


@lru_cache(maxsize=4096, typed=True)  # typed: what is no str must not find the entry of a str that it equals
def _session_key(prefix: str, session_id: str, part: str, *names: str) -> str:
    segments = [part, *(encode_segment(name, "namespace") for name in names)]
    return f"{prefix}:session:{{{encode_segment(session_id, 'session_id')}}}:{':'.join(segments)}"


def encode_segment(text: str, what: str) -> str:
    """`text` as a segment of a key: UTF-8 bytes outside `A-Za-z0-9._~-` become `%XX`.

    Different texts give different segments, and `decode_segment` reads them back. `what` names the argument in
    the `InvalidKey` raised when `text` is empty, no `str`, holds a lone surrogate, or takes more than
    `MAX_BYTES` bytes encoded.
    """
    if type(text) is not str:
        text = _plain(text, what)
    if _SAFE.fullmatch(text):
        return text
    if not text:
        raise _empty(what)
    if len(text) <= MAX_BYTES and len(segment := quote_from_bytes(utf8(text, what), safe="")) <= MAX_BYTES:
        return segment
    raise _too_long(text, what, "percent-encoded")


def decode_segment(text: str) -> str:
    """The text whose segment is `text`; `InvalidKey` for anything that `encode_segment` would not have given."""
    try:
        original = unquote_to_bytes(text).decode()
        if encode_segment(original, "segment") == text:
            return original
    except (InvalidKey, UnicodeError, AttributeError, TypeError):
        pass
    raise InvalidKey(f"{_shown(text)} is no segment of a key that redismem wrote")


def field(key: str, what: str = "key") -> bytes:
    """The hash field that holds `key`: the key itself in UTF-8, as an operator reads it.

    `what` names the argument in the `InvalidKey` raised when it is empty, no `str`, holds a lone surrogate, or takes
    more than `MAX_BYTES` bytes.
    """
    if type(key) is not str:
        key = _plain(key, what)
    raw = utf8(key, what)
    if 0 < len(raw) <= MAX_BYTES:
        return raw
    raise _too_long(key, what, "in UTF-8") if raw else _empty(what)


def escape_glob(text: str) -> str:
    """A glob for `SCAN MATCH` that matches `text` and nothing else."""
    return _GLOB.sub(r"\\\g<0>", text)


def _plain(text: object, what: str) -> str:
    """The characters of a `str`, whatever a subclass of it, such as an enum, makes of `str()` and `format()`."""
    if isinstance(text, str):
        return str.__str__(text)
    raise InvalidKey(f"{what} must be a str, not {type(text).__name__}; convert it first")


def utf8(text: str, what: str) -> bytes:
    """The bytes of `text`. `what` names the argument in the `InvalidKey` raised when it holds a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidKey(f"{what} {_shown(text)} holds a lone surrogate, which is not text; clean it first") from None


def _empty(what: str) -> InvalidKey:
    return InvalidKey(f"{what} is empty; give it at least one character")


def _too_long(text: str, what: str, form: str) -> InvalidKey:
    return InvalidKey(f"{what} {_shown(text)} takes more than {MAX_BYTES} bytes {form}; shorten or hash it")


def _shown(value: object) -> str:
    return reprlib.repr(value)[:40]
