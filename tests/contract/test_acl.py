"""The users of deploy/acl: each may do its work, on every server, and nothing else.

The library itself runs as each user, and what it sends is written down by the server: MONITOR tells every command with
its arguments, those inside scripts too. A command that no ACL allows fails the run; one that no run sends, the check
that nothing is allowed beyond what is needed; one that neither run nor ACL knows, the look at the source.
"""

import ast
import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from redismem import AsyncMemory, EpisodicMemory, Memory, SimpleMemory, SkillMemory
from redismem.coordination.transaction import TransactionSessions
from redismem.durability import Durability
from redismem.errors import AuthenticationFailed, ConfigError, LockTimeout, NotDurable, PermissionDenied, WrongType
from redismem.op import run
from redismem.ops import api
from redismem.ops.replay.site import Site
from redismem.stores.crm import SimpleContact
from tests.clusters import Cluster
from tests.conftest import CI, started
from tests.contract.flavours import SOON
from tests.docs.test_keys import Lead, everything, everything_documented
from tests.servers import REAL, Missing, Server

ROOT = Path(__file__).parents[2]
FILES = {"valkey9": "valkey9", "valkey9-nohsetex": "redis74", "redis70": "redis62", "redis62": "redis62"}
"""Which file is for which server."""
USERS = ("worker", "reader", "operator", "metrics")
BY_HAND = {
    "operator": {"dbsize", "memory|usage", "slowlog|get", "slowlog|len", "latency|latest"},
    "metrics": {"dbsize", "slowlog|len", "latency|latest"},
}
"""What people and programs other than redismem do as these users."""
CLUSTER = {"asking", "cluster|slots"}
"""What only a cluster's clients send."""
OWN = {"config", "config|resetstat", "echo", "monitor"}
"""What these tests send."""
FREE = {"auth", "hello", "quit", "reset"}
"""What servers let everybody do."""

servers = pytest.mark.parametrize("guarded", REAL, indirect=True)
newer = pytest.mark.parametrize("guarded", [name for name in REAL if name != "redis62"], indirect=True)


# --- servers with these users ---------------------------------------------------------------------------------------


def rules(file: str) -> dict[str, list[str]]:
    """User -> rules, as a file of deploy/acl says it."""
    lines = (ROOT / "deploy" / "acl" / f"{file}.acl").read_text("ascii").splitlines()
    return {words[1]: words[2:] for words in map(str.split, lines)}


def allowed(file: str, user: str) -> set[str]:
    """The commands that a user may call."""
    return {rule[1:] for rule in rules(file)[user] if rule.startswith("+")}


def switched_on(file: str) -> str:
    """The file with a password for each user, as deploy/README.md says to do it; they are their names."""
    text = (ROOT / "deploy" / "acl" / f"{file}.acl").read_text("ascii")
    return re.sub(r"^user (?!default)(\w+) off", r"user \1 on >\1", text, flags=re.MULTILINE)


@dataclass
class Guarded:
    """A server that has the users of a file, and nobody else."""

    server: Server
    file: str

    def url(self, user: str) -> str:
        return f"redis://{user}:{user}@127.0.0.1:{self.server.port}/1"

    def raw(self, user: str = "admin") -> "redis.Redis":
        return redis.Redis(port=self.server.port, username=user, password=user, decode_responses=True, protocol=2)


@pytest.fixture(scope="module")
def all_guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Guarded]]:
    running: dict[str, Guarded] = {}
    yield running
    for guarded in running.values():
        guarded.server.close()


@pytest.fixture
def on(all_guarded: dict[str, Guarded], tmp_path: Path) -> Callable[[str], Guarded]:
    """Each kind of server, with its users, empty."""

    def empty(name: str) -> Guarded:
        if name not in all_guarded:
            users = tmp_path / "users.acl"
            users.write_text(switched_on(FILES[name]), "ascii")
            all_guarded[name] = Guarded(started(name, "--aclfile", str(users), appendonly=True), FILES[name])
        with all_guarded[name].raw() as raw:
            raw.flushall()
            raw.script_flush()
        return all_guarded[name]

    return empty


@pytest.fixture
def guarded(request: pytest.FixtureRequest, on: Callable[[str], Guarded]) -> Guarded:
    return on(request.param)


# --- what the library sends -----------------------------------------------------------------------------------------


class Sent:
    """What a server was given: by MONITOR, which has the arguments, and by its statistics, which miss nothing."""

    def __init__(self) -> None:
        self.commands: set[tuple[bytes, ...]] = set()
        self.counted: set[str] = set()

    def names(self, may: set[str]) -> set[str]:
        """The commands by name; with their subcommand where `may` has some of the command's."""
        parents = {name.partition("|")[0] for name in may if "|" in name}
        found = {_name(command, parents) for command in self.commands} | self.counted
        return {name for name in found if name not in parents} - FREE - OWN


def _name(command: tuple[bytes, ...], parents: set[str]) -> str:
    first, *rest = (word.decode(errors="replace").lower() for word in command[:2])
    return "|".join((first, *rest)) if first in parents else first


@contextmanager
def watched(guarded: Guarded) -> Iterator[Sent]:
    """Every command that the server is given while the block runs, in scripts too."""
    sent, end = Sent(), b"that was all"

    def listen() -> None:
        for line in lines:
            words = tuple(map(_plain, re.findall(rb'"((?:[^"\\]|\\.)*)"', line)))
            if words[1:] == (end,):
                return
            if words:
                sent.commands.add(words)

    with socket.create_connection(("127.0.0.1", guarded.server.port)) as connection, guarded.raw() as raw:
        lines = connection.makefile("rb")
        connection.sendall(b"AUTH admin admin\r\nMONITOR\r\n")
        assert [lines.readline(), lines.readline()] == [b"+OK\r\n", b"+OK\r\n"]
        raw.config_resetstat()
        listener = threading.Thread(target=listen)
        listener.start()
        try:
            yield sent
        finally:
            raw.echo(end)
            listener.join(20)
            counts = raw.info("commandstats").items()
            sent.counted = {name.removeprefix("cmdstat_") for name, count in counts if count["calls"]}


def _plain(quoted: bytes) -> bytes:
    return re.sub(rb"\\(x..|.)", lambda found: _character(found[1]), quoted, flags=re.DOTALL)


def _character(escape: bytes) -> bytes:
    if len(escape) == 3:
        return bytes.fromhex(escape[1:].decode())
    return {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}.get(escape, escape)


# --- what there is to send ------------------------------------------------------------------------------------------


def use_batch(memory: Memory) -> None:
    with memory.batch() as batch:
        batch.sessions.save("c", "n", "k", 1)
        batch.sessions.update("c", "n", "k", lambda value: value)


def use_transaction(memory: Memory) -> None:
    memory.sessions.save("d", "n", "int", 1, 100)
    for step in (_watched, _compared, _refused):
        with suppress(WrongType), memory.transaction("d") as t:
            step(memory, t.sessions)


def _watched(_: Memory, s: TransactionSessions) -> None:
    s.get_all("d", "n"), s.load("d", "n", "k"), s.load_many("d", "n", ["k", "l"])
    s.ttl("d", "n", "k"), s.info("d"), s.namespaces("d")
    s.save("d", "n", "k", 1, 100)
    s.save_many("d", "m", {"k": "text", "l": 1})
    s.expire("d", "n", "k", None)
    s.delete("d", "m", "l")


def _compared(memory: Memory, s: TransactionSessions) -> None:
    s.load("d", "n", "int"), s.get_all("d", "m"), s.ttl("d", "n", "int"), s.info("d")
    memory.sessions.save("d", "n", "other", 1, 100)
    s.increment("d", "n", "k", ttl=100)


def _refused(_: Memory, s: TransactionSessions) -> None:
    s.save("d", "n", "int", 2, 100)
    s.save("d", "n", "new", 2)
    s.delete("d", "n", "int")
    s.increment("d", "m", "k")


def use_locks(memory: Memory) -> None:
    def take() -> None:
        with memory.lock("u"):
            taken.set()

    taken, waiter = threading.Event(), threading.Thread(target=lambda: take())
    with memory.lock("u", lease=0.5):
        with pytest.raises(LockTimeout), memory.lock("u", wait=0):
            pass
        with pytest.raises(LockTimeout), memory.lock("u", wait=0.05):
            pass
        waiter.start()
        taken.wait(0.5)  # long enough for the lease to be renewed
    assert taken.wait(20)
    waiter.join()
    with memory.lock("u", shared=True), memory.lock("u", shared=True):
        pass


def use_durability(memory: Memory) -> None:
    with pytest.raises(NotDurable):
        memory.sessions.save("e", "n", "k", 1, durable=Durability(replicas=1, timeout=0.01))
    with suppress(ConfigError):  # a server without WAITAOF
        memory.sessions.save("e", "n", "k", 1, durable=Durability(fsync=True, timeout=5))


def use_l1(memory: Memory) -> None:
    with Memory(memory.settings, coherence="tracking") as tracking:
        tracking.sessions.save("f", "n", "k", 1)
        deadline = time.monotonic() + 20
        while not (tracking.sessions.load("f", "n", "k") and tracking.stats().l1.hits):
            assert time.monotonic() < deadline
        tracking.sessions.get_all("f", "n")
        tracking.sessions.load_many("f", "n", ["k", "l"])


def use_graph(memory: Memory) -> None:
    g = memory.graph
    for kind in ("person", "customer"):
        g.add_entity("42", "ann", kind, {"age": 35})
    g.add_relationship("42", "ann", "knows", "ann", {"since": 2020})
    read_graph(memory)
    g.delete_relationship("42", "ann", "knows", "ann")
    g.delete_entity("42", "ann")
    g.forget("42")


def read_graph(memory: Memory) -> None:
    g = memory.graph
    g.count("42"), list(g.entities("42")), list(g.relationships("42"))
    g.get_entity("42", "ann"), g.get_relationship("42", "ann", "knows", "ann")
    g.neighbours("42", "ann"), g.paths("42", "ann", "bob")


def use_history(memory: Memory) -> None:
    h = memory.history
    for ttl in (100, None):
        h.append("42", "user", "Hi", ttl=ttl, max_turns=1, max_tokens=10)
    h.append("42", "user", "Hi", conversation="brief", ttl=SOON)
    while h.count("42", conversation="brief"):
        pass
    h.expire("42", 100)
    read_history(memory)
    h.clear("42")


def read_history(memory: Memory) -> None:
    h = memory.history
    h.turns("42", 1, max_tokens=10), h.context_text("42"), h.count("42"), h.conversations("42")


def use_threads(memory: Memory) -> None:
    t = memory.threads
    for ttl in (100, None):
        t.put("t", {"step": 1}, ttl=ttl, keep=1)
    t.update("t", lambda state: state)
    t.copy("t", "copy")
    t.expire("t", 100)
    read_threads(memory)
    t.prune("t", 1)
    t.delete("t"), t.delete("copy")


def read_threads(memory: Memory) -> None:
    t = memory.threads
    t.get("t"), t.get("t", 1), t.versions("t"), t.info("t"), list(t.scan())


def use_states(memory: Memory) -> None:
    s = memory.states
    for ttl in (100, None):
        s.set_task("h", "task", ttl)
        s.set_variables("h", {"n": 1, "text": "x"})
        s.increment_variable("h", "n")
        s.push("h", "context")
    read_states(memory)
    s.pop("h"), s.delete_variable("h", "n"), s.touch("h", 100), s.clear("h")


def read_states(memory: Memory) -> None:
    s = memory.states
    s.get("h"), s.peek("h"), s.get_variable("h", "n")


def use_preferences(memory: Memory) -> None:
    p = memory.preferences
    p.set_many("42", {"tone": "brief", "language": "en"})
    read_preferences(memory)
    p.delete("42", "tone"), p.forget("42")


def read_preferences(memory: Memory) -> None:
    p = memory.preferences
    p.get("42", "tone"), p.get_all("42"), p.apply("42", "Go.")


def use_temporal(memory: Memory) -> None:
    t = memory.temporal
    for key in ("code", "token"):
        t.put("42", key, 1, 100)
    t.put("42", "code", 1, SOON)
    while t.get("42", "code"):
        pass
    t.put("42", "code", 1, 100)
    read_temporal(memory)
    t.delete("42", "code"), t.forget("42")


def read_temporal(memory: Memory) -> None:
    t = memory.temporal
    t.get("42", "code"), t.get_all("42"), t.ttl("42", "code")


def use_asyncio(memory: Memory) -> None:
    async def main() -> None:
        async with AsyncMemory(memory.settings) as other:
            await other.sessions.save("g", "n", "k", 1)
            async with other.transaction("g") as t:
                await t.sessions.load("g", "n", "k")

    asyncio.run(main())


def use_records(memory: Memory) -> None:
    records = memory.records("lead", Lead)
    records.merge("42", "a", Lead(name="Ann", visits=1, tags=frozenset({"t"}), best=1.0, task="t"))
    records.merge("42", "a", {"visits": 1, "task": "u"})
    records.replace("42", "b", Lead(name="Bob"))
    records.update("42", "b", lambda lead: lead or Lead(name="Bob"))
    records.get_all("42")
    records.delete("42", "a")
    for place in list(records.scan()):
        records.migrate(*place)


def use_entities(memory: Memory) -> None:
    for name, id_ in (("Ann", None), ("Bob", "7"), ("Ann", "7")):
        memory.entities.merge("42", SimpleMemory(contacts=[SimpleContact(name=name, id=id_)]))
    memory.entities.find_users(SimpleContact(name="Ann"))
    run(memory._link.execute("HSET", "redismem:user:{42}:entities:contacts", "1.name", b"\xc1", "key=cid", 99))
    run(memory._link.execute("HDEL", "redismem:user:{42}:entities:contacts", "key=ann"))
    memory.entities.repair("42")
    memory.entities.forget("42")


WORK: dict[str, Callable[[Memory], object]] = {
    "sessions": everything,
    "batch": use_batch,
    "transaction": use_transaction,
    "lock": use_locks,
    "graph": use_graph,
    "history": use_history,
    "threads": use_threads,
    "states": use_states,
    "preferences": use_preferences,
    "temporal": use_temporal,
    "health": lambda memory: memory.health(),
    "stats": lambda memory: memory.stats(),
    "name": lambda memory: memory.name,
    "settings": lambda memory: memory.settings,
    "close": lambda memory: None,
    "records": use_records,
    "contexts": lambda memory: memory.contexts.update_context("42", "Hi", "Hello"),
    "entities": use_entities,
    "episodes": everything_documented,
    "semantics": lambda memory: memory.semantics.query(predicate="likes"),
    "skills": lambda memory: memory.skills.search("book"),
    "durable": use_durability,
    "coherence": use_l1,
    "asyncio": use_asyncio,
}
"""What a memory has, and two settings that make it send something else."""


def work(memory: Memory) -> None:
    """Everything that a worker may want."""
    for part in WORK.values():
        part(memory)


def look(memory: Memory) -> None:
    """Everything that does not write."""
    s = memory.sessions
    for session_id in list(s.scan()):
        for user_id in (None, "u"):
            s.load(session_id, "n", "k", user_id=user_id)
            s.ttl(session_id, "n", "k", user_id=user_id)
            s.info(session_id, user_id=user_id)
        s.load_many(session_id, "n", ["k", "l"])
        s.get_all(session_id, "n")
        s.namespaces(session_id)
    with memory.batch() as batch:
        batch.sessions.get_all("a", "n")
    with Memory(memory.settings, coherence="tracking") as tracking:
        deadline = time.monotonic() + 20
        while not (tracking.sessions.load("r", "n", "k") and tracking.stats().l1.hits):
            assert time.monotonic() < deadline
        tracking.sessions.get_all("r", "n")
    read_graph(memory)
    read_history(memory)
    read_threads(memory)
    read_states(memory)
    read_preferences(memory)
    read_temporal(memory)
    memory.entities.load("42"), memory.entities.validate("42")
    memory.entities.find_users(SimpleContact(name="Ann"))
    memory.records("lead", Lead).get_all("42")
    memory.episodes.search("Lisboa")
    run(memory.episodes.changes("default", 0, 10))  # as a search does after others wrote
    memory.skills.search()
    memory.health()


def operate(memory: Memory) -> None:
    """What the command line does, beside what workers do."""
    list(api.sessions(memory))
    api.show(memory, "r")
    api.doctor(memory)
    with memory.lock("u"):
        list(api.locks(memory))
    list(api.migrate(memory, Lead, "lead"))
    with Site(memory.settings.url) as site:
        site.type_of("redismem:session:{r}:ns:n")
        site.wait_until_gone("nobody")


def prepare(guarded: Guarded) -> None:
    """Sessions to look at; one namespace has nothing left."""
    with Memory(guarded.url("worker")) as memory:
        memory.sessions.save("r", "n", "k", 1, ttl=100, user_id="u")
        memory.sessions.save("r", "brief", "k", 1, ttl=SOON)
        memory.history.append("42", "user", "Hi")
        memory.threads.put("t", 1)
        memory.states.push("h", "context")
        memory.preferences.set("42", "tone", "brief")
        memory.temporal.put("42", "code", 1, 100)
        memory.episodes.add(EpisodicMemory(content="to Lisboa"), ttl=100)
        memory.skills.add(SkillMemory(skill_name="book"))
        memory.entities.merge("42", SimpleMemory(contacts=[SimpleContact(name="Ann")]))
        while memory.sessions.load("r", "brief", "k") is not None:
            pass


# --- tests ----------------------------------------------------------------------------------------------------------


def test_every_part_of_a_memory_is_tried() -> None:
    with Memory("memory://") as memory:
        parts = {name for name in dir(memory) if not name.startswith("_") and name not in ("flavoured",)}
    assert parts <= WORK.keys(), "a new part of a memory: use it here, so that the ACL is known to allow it"


@servers
def test_nobody_gets_in_before_users_are_switched_on(guarded: Guarded, new_server: Callable[..., Server]) -> None:
    """As they are shipped, the files let nobody in."""
    server = new_server(guarded.server.name, "--aclfile", str(ROOT / "deploy" / "acl" / f"{guarded.file}.acl"))
    for user in ("", *(f"{user}:{user}@" for user in (*USERS, "admin", "default"))):
        with Memory(f"redis://{user}127.0.0.1:{server.port}", retries=0) as memory, pytest.raises(AuthenticationFailed):
            memory.sessions.load("s", "n", "k")


@pytest.mark.parametrize(
    ("user", "run"), [("worker", work), ("operator", operate), ("reader", look), ("metrics", Memory.health)]
)
def test_each_may_do_its_work_and_no_more(
    user: str, run: Callable[[Memory], None], on: Callable[[str], Guarded]
) -> None:
    """What is allowed is sent by some kind of server's clients, if not by those of all."""
    unused = {command for file in FILES.values() for command in allowed(file, user)}
    unused -= allowed("valkey9", "worker") if user == "operator" else set()
    for name in REAL:
        guarded = on(name)
        prepare(guarded)
        with watched(guarded) as sent, Memory(guarded.url(user)) as memory:
            run(memory)
        may = allowed(guarded.file, user)
        assert sorted(sent.names(may) - may) == [], f"{user} on {name}"
        unused -= sent.names(may)
    assert unused <= BY_HAND.get(user, set()) | CLUSTER, f"{user} need not be allowed {unused}"


@servers
@pytest.mark.parametrize("user", USERS)
def test_everything_else_is_refused(guarded: Guarded, user: str) -> None:
    prepare(guarded)
    never = ("FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG GET *", "CONFIG SET maxmemory 1", "DEBUG SLEEP 0", "SHUTDOWN",
             "ACL LIST", "ACL SETUSER worker allcommands", "SAVE", "MONITOR", "REPLICAOF NO ONE", "SCRIPT FLUSH",
             "CLIENT KILL TYPE normal", "PUBLISH c m", "SWAPDB 0 1", "MIGRATE h 1 k 0 1", "RANDOMKEY",
             "SORT redismem:k", "RENAME redismem:a redismem:b", "RESTORE redismem:a 0 x", "MODULE LIST")  # fmt: skip
    foreign = ("HGET other k", "HGETALL redismem2:k", "HSET other k 1", "GET redismem", "EVAL return 1 other",
               "DEL other", "UNLINK redismem2:k", "HGET {redismem:}k f", "WATCH other", "BLPOP other 0")  # fmt: skip
    writes = ("HSET redismem:k f 1", "HDEL redismem:k f", "UNLINK redismem:k", "DEL redismem:k", "SET redismem:k 1",
              "PEXPIRE redismem:k 1", "PERSIST redismem:k", "ZADD redismem:k 1 m", "LPUSH redismem:k 1",
              "HINCRBY redismem:k f 1")  # fmt: skip
    barred = (*never, *foreign, *(writes if user in ("reader", "metrics") else ()))
    with guarded.raw(user) as raw:
        for words in map(str.split, barred):
            with pytest.raises(redis.ResponseError, match=r"(?i)NOPERM|no permissions|not allowed"):
                raw.execute_command(*words)
        if user in ("reader", "metrics"):
            script = "return redis.call('HSET', KEYS[1], 'f', 1)"
            with pytest.raises(redis.ResponseError, match=r"(?i)NOPERM|can't run this command|no permissions"):
                raw.execute_command("EVAL", script, 1, "redismem:k")
    with guarded.raw() as admin:
        assert admin.dbsize() == 0, "of database 0"


@servers
def test_a_reader_that_writes(guarded: Guarded) -> None:
    prepare(guarded)
    with Memory(guarded.url("reader")) as memory:
        s = memory.sessions
        for write in (
            lambda: s.save("r", "n", "k", 2),
            lambda: s.increment("r", "n", "count"),
            lambda: s.delete("r", "n", "k"),
            lambda: s.touch("r", 1),
            lambda: s.end("r"),
            lambda: memory.transaction("r").run(lambda t: t.sessions.save("r", "n", "k", 2)),
        ):
            with pytest.raises(PermissionDenied):
                write()
        assert s.load("r", "n", "k") == 1
        assert s.info("r").namespaces == ("n",)
    with Memory(guarded.url("metrics")) as memory:
        assert memory.health().ok
        with pytest.raises(PermissionDenied):
            memory.sessions.load("r", "n", "k")
    with Memory(guarded.url("worker"), prefix="redismem2") as memory, pytest.raises(PermissionDenied):
        memory.sessions.load("r", "n", "k")


@newer
def test_the_server_says_the_same_of_every_command(guarded: Guarded) -> None:
    """ACL DRYRUN of whatever a worker sends: who may, and who may not."""
    prepare(guarded)
    with watched(guarded) as sent, Memory(guarded.url("worker")) as memory:
        work(memory)
    parents = {name.partition("|")[0] for name in allowed(guarded.file, "worker") if "|" in name}
    samples = {_name(command, parents): command for command in sent.commands}
    with guarded.raw() as raw:
        for name in sorted(samples.keys() - FREE - OWN):
            for user in USERS:
                said = raw.execute_command("ACL", "DRYRUN", user, *samples[name])
                assert (said == "OK") == (name in allowed(guarded.file, user)), f"{user}: {name}: {said}"
            for user in ("reader", "metrics"):
                flags = raw.execute_command("COMMAND", "INFO", name.partition("|")[0])
                if any("write" in info["flags"] for info in flags.values()):
                    assert raw.execute_command("ACL", "DRYRUN", user, *samples[name]) != "OK", f"{user} may {name}"
    assert {"watch", "blpop", "client|tracking", "wait", "evalsha", "hset"} <= samples.keys()


def test_what_the_source_can_send_is_allowed(valkey: Server) -> None:
    """Also what no run of these tests comes to."""
    package = ROOT / "redismem"
    inner = {
        word for path in package.rglob("*.lua") for word in re.findall(r"call\('([A-Z]+)'", path.read_text("utf-8"))
    }
    with redis.Redis(port=valkey.port) as raw:
        raw.response_callbacks.clear()
        known = {name.decode() for name in raw.execute_command("COMMAND", "LIST")}
    outer = {
        node.value
        for path in package.rglob("*.py")
        if path.name != "slots.py"  # a table of all commands whose keys are elsewhere than in the first argument
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isupper()
    }
    sent = {name.lower() for name in inner | outer} & known
    may = {name.partition("|")[0] for name in allowed("valkey9", "operator")}
    never_sent = {"unwatch", "discard", "readonly"}  # names that a connection's state and error replies are known by
    assert sent - FREE - never_sent <= may


def test_the_files_say_the_same_of_different_servers() -> None:
    """A newer server's file allows its commands on top of an older one's; roles differ by commands, not by keys."""
    oldest, middle, newest = (rules(file) for file in ("redis62", "redis74", "valkey9"))
    assert set(oldest) == set(middle) == set(newest) == {"default", "admin", *USERS}
    for user in oldest:
        assert set(oldest[user]) <= set(middle[user]) <= set(newest[user])
    added = {rule for user in USERS for rule in set(newest[user]) - set(oldest[user])}
    assert added == {"+client|setinfo", "+waitaof", "+pexpiretime", "+hpttl", "+hpexpire", "+hpersist", "+hsetex"}
    for user in USERS:
        keys = [rule for rule in newest[user] if rule.startswith(("~", "%"))]
        assert keys == ([] if user == "metrics" else ["~redismem:*"])
        assert not [rule for rule in newest[user] if rule.startswith("+@") or rule == "allcommands"]
    assert allowed("valkey9", "reader") < allowed("valkey9", "worker") < allowed("valkey9", "operator")


def test_a_worker_of_a_cluster() -> None:
    try:
        cluster = Cluster.launch()
    except Missing as missing:
        if CI:
            raise
        pytest.skip(str(missing))
    with cluster:
        for server in cluster.servers:
            with redis.Redis(port=server.port) as raw:
                raw.execute_command("ACL", "SETUSER", "worker", "on", ">worker", *rules("valkey9")["worker"][1:])
        address = cluster.url.replace("://", "://worker:worker@")
        with Memory(address) as memory:
            for name in WORK.keys() - {"durable", "coherence"}:
                WORK[name](memory)
