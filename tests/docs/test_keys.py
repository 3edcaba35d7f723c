"""What docs/keys.md says beyond its transcript: all keys and fields there are, patterns, ACL, work by hand."""

import re
import shlex
from inspect import getattr_static
from typing import Annotated, Any

import pytest
import redis
from pydantic import BaseModel

from redismem import (
    KEEP_TTL,
    MISSING,
    EpisodicMemory,
    Expires,
    Max,
    Memory,
    SemanticMemory,
    SessionStore,
    SimpleMemory,
    SkillMemory,
    Sum,
    Union,
)
from redismem.coordination.fence import Fence
from redismem.op import Declared
from redismem.stores.crm import SimpleContact
from redismem.stores.sessions import SessionOperations
from tests.contract.flavours import SOON
from tests.docs.pages import ROOT, blocks, commands
from tests.servers import REAL, Server

PAGE = ROOT / "docs" / "keys.md"
TEXT = PAGE.read_text("utf-8")
OPERATIONS = {name for name in dir(SessionOperations) if isinstance(getattr_static(SessionOperations, name), Declared)}

real_servers = pytest.mark.parametrize("server", REAL, indirect=True)


class Lead(BaseModel, frozen=True):
    name: str
    visits: Annotated[int, Sum] = 0
    tags: Annotated[frozenset[str], Union] = frozenset()
    best: Annotated[float, Max] = 0.0
    task: Annotated[str | None, Expires(100)] = None


class Called:
    """A session store that notes which operations were called."""

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self.names: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.names.add(name)
        return getattr(self.store, name)


def everything(memory: Memory) -> None:
    """Each operation, in each way that sends something else."""
    s = Called(memory.sessions)
    for ttl in (None, 100, None):
        s.save("a", "n", "k", 1, ttl, user_id="u")
        s.save("a", "n", "k", 1, ttl)
        s.save("a", "n", "k", 1, KEEP_TTL)
        s.save_many("a", "n", {"k": 1, "l": 2}, ttl)
        s.load("a", "n", "k")
        s.load("a", "n", "k", user_id="u")
        s.load_many("a", "n", ["k", "l"])
        s.get_all("a", "n")
        s.increment("a", "n", "k", ttl=ttl)
        s.compare_and_set("a", "n", "k", MISSING, 1)
        s.update("a", "n", "k", lambda value: value, ttl=ttl)
        s.expire("a", "n", "k", ttl)
        s.touch("a", ttl)
        s.delete("a", "n", "l")
    s.save("a", "n", "k", 1, fence=Fence("redismem:user:{42}:fence:default", 1))
    s.save("b", "n", "k", 1, SOON)
    while s.ttl("b", "n", "k") is not None:
        pass
    s.save("b", "n", "l", 1, 100)
    s.save("b", "m", "k", 1, 100)
    s.delete("b", "n", "l")
    list(s.scan())
    s.namespaces("b")
    s.info("b")
    s.end("b")
    memory.health()
    assert s.names == OPERATIONS


def everything_documented(memory: Memory) -> None:
    """Each operation on documents."""
    memory.episodes.add(EpisodicMemory(memory_id="first", content="to Braga"))
    memory.episodes.delete("first")
    for number in range(2):
        memory.episodes.add(EpisodicMemory(memory_id=f"e{number}", content="to Lisboa"), ttl=100 if number else None)
    memory.episodes.add_many([EpisodicMemory(memory_id="e2", content="to Porto")])
    memory.episodes.get("e0")
    memory.episodes.update("e0", lambda one: one.model_copy(update={"score": 1.0}))
    memory.episodes.search("Lisboa")
    memory.episodes.add(EpisodicMemory(memory_id="e3", content="to Faro"))
    memory.episodes.search("Faro", min_score=0.1)
    list(memory.episodes.stream())
    memory.episodes.delete("e2")
    memory.episodes.count()
    memory.semantics.add(SemanticMemory(subject="Ann", predicate="likes", object="tea"))
    memory.semantics.query("Ann")
    memory.skills.add(SkillMemory(skill_name="book"))
    memory.skills.use("book", success=True)
    memory.skills.search()
    with Memory(memory.settings, max_documents=3) as bounded:
        bounded.episodes.add(EpisodicMemory(memory_id="e4", content="to Beja"))
    with Memory(memory.settings, embedder="hashing") as embedding:
        embedding.episodes.add(EpisodicMemory(memory_id="e5", content="to Sintra"), ttl=100)
        embedding.episodes.search("Sintra")
    memory.episodes.add(EpisodicMemory(content="gone"), scope="gone")
    memory.episodes.forget(scope="gone")


def table(heading: str, number: int = 0) -> list[list[str]]:
    """The cells of a table below a heading."""
    _, _, below = TEXT.partition(f"\n## {heading}\n")
    rows = re.findall(r"(?:^\|.*\n)+", below, re.MULTILINE)[number]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows.splitlines()[2:]]


def named(cell: str) -> "re.Pattern[str]":
    """What a name in a table stands for: `<...>` for anything."""
    return re.compile(re.sub(r"<[^>]+>", ".+", re.escape(cell.strip("`"))))


@real_servers
def test_there_are_no_other_keys_and_fields(server: Server) -> None:
    keys = {named(row[0]): (row[1], row[3]) for row in table("Names")}
    fields = [named(row[0]) for row in table("meta")]
    with Memory(server.url, session_ttl=1800) as memory, redis.Redis(port=server.port, decode_responses=True) as raw:
        everything(memory)
        memory.sessions.save("a", "n", "x", 1, 100)
        assert raw.dbsize() >= 2
        for key in raw.scan_iter():
            kind, tiers = next(what for name, what in keys.items() if name.fullmatch(key))
            assert raw.type(key) == {"hash": "hash", "sorted set": "zset"}[kind]
            assert tiers in ("all", f"tier `{memory.health().tier}`")
        present = raw.hkeys("redismem:session:{a}:meta")
        assert all(any(name.fullmatch(field) for name in fields) for field in present)
        assert all(any(name.fullmatch(field) for field in present) for name in fields), "all of them are there"


def readable(server: Server) -> redis.Redis:
    """Shows what is no text as redis-cli does."""
    return redis.Redis(port=server.port, decode_responses=True, encoding_errors="backslashreplace")


@real_servers
def test_records_have_no_other_keys_and_fields(server: Server) -> None:
    keys = {named(row[0]): (row[1], row[3]) for row in table("Records")}
    fields = [named(row[0]) for row in table("Records", 1)]
    with Memory(server.url) as memory, readable(server) as raw:
        records = memory.records("lead", Lead)
        records.merge("42", "a", Lead(name="Ann", visits=1, tags=frozenset({"t"}), best=1.0, task="t"))
        records.merge("42", "b", {"name": "Bob", "visits": 1})
        records.update("42", "b", lambda lead: lead or Lead(name="Bob"))
        assert len(records.get_all("42")) == 2
        assert records.delete("42", "b") == 1
        memory.contexts.update_context("42", "Hi", "Hello", preferences={"language": "de"})
        for key in raw.scan_iter():
            kind, tiers = next(what for name, what in keys.items() if name.fullmatch(key))
            assert raw.type(key) == {"hash": "hash", "sorted set": "zset"}[kind]
            assert tiers in ("all", f"tier `{memory.health().tier}`")
        for key in ("redismem:user:{42}:context", "redismem:user:{42}:record:lead:a"):
            assert all(any(name.fullmatch(field) for name in fields) for field in raw.hkeys(key))
        assert raw.hkeys("redismem:user:{42}:records:lead") == ["a"]


@real_servers
def test_entities_have_no_other_keys_and_fields(server: Server) -> None:
    keys = {named(row[0]): (row[1], row[3]) for row in table("Entities")}
    fields = [named(row[0]) for row in table("Entities", 1)]
    with Memory(server.url) as memory, readable(server) as raw:
        told = SimpleContact(id="7", name="Ann"), SimpleContact(name="Bob"), SimpleContact(id="7", name="Anna")
        memory.entities.merge("42", SimpleMemory(contacts=list(told)))
        raw.hset("redismem:user:{42}:entities:contacts", "2.name", "?")
        assert len(memory.entities.repair("42")) == 1
        for key in raw.scan_iter():
            kind, tiers = next(what for name, what in keys.items() if name.fullmatch(key))
            assert raw.type(key) == {"hash": "hash", "set": "set", "sorted set": "zset"}[kind]
            assert tiers in ("all", f"tier `{memory.health().tier}`")
        present = raw.hkeys("redismem:user:{42}:entities:contacts")
        assert all(any(name.fullmatch(field) for name in fields) for field in present)
        assert all(any(name.fullmatch(field) for field in present) for name in fields)


@real_servers
def test_graphs_have_no_other_keys_and_fields(server: Server) -> None:
    keys = {named(row[0]): row[1] for row in table("Graph")}
    fields = [named(row[0]) for row in table("Graph", 1)]
    with Memory(server.url) as memory, readable(server) as raw:
        memory.graph.add_entity("42", "ann lee", "person", {"a b": 1})
        memory.graph.add_relationship("42", "ann lee", "is a", "ann lee", {"x": 1})
        assert memory.graph.paths("42", "ann lee", "ann lee")
        for key in raw.scan_iter():
            kind = next(what for name, what in keys.items() if name.fullmatch(key))
            assert raw.type(key) == {"hash": "hash", "sorted set": "zset"}[kind]
        graph = "redismem:user:{42}:graph:"
        assert all(any(name.fullmatch(field) for name in fields) for field in raw.hkeys(f"{graph}properties"))
        assert raw.zrange(f"{graph}out", "[ann%20lee ", "(ann%20lee!", bylex=True) == ["ann%20lee is%20a ann%20lee"]


@real_servers
def test_documents_have_no_other_keys_and_fields(server: Server) -> None:
    keys = {named(row[0]): (row[1], row[3]) for row in table("Documents")}
    fields = [named(row[0]) for row in table("Documents", 1)]
    with Memory(server.url) as memory, readable(server) as raw:
        everything_documented(memory)
        for key in raw.scan_iter():
            kind, tiers = next(what for name, what in keys.items() if name.fullmatch(key))
            assert raw.type(key) == {"hash": "hash", "stream": "stream", "sorted set": "zset"}[kind]
            assert tiers in ("all", f"tier `{memory.health().tier}`")
        present = {field for key in raw.scan_iter("*:meta:*") for field in raw.hkeys(key)}
        assert all(any(name.fullmatch(field) for name in fields) for field in present)
        assert all(any(name.fullmatch(field) for field in present) for name in fields)


@real_servers
def test_conversations_and_threads_have_no_other_keys_and_fields(server: Server) -> None:
    keys = {named(row[0]): row[1] for heading in ("Conversations", "Threads") for row in table(heading)}
    fields = [named(row[0]) for row in table("Conversations", 1)]
    with Memory(server.url) as memory, readable(server) as raw:
        memory.history.append("42", "user", "Hi", conversation="a b", metadata={"x": 1}, ttl=100)
        memory.threads.put("t", {"step": 1})
        for key in raw.scan_iter():
            kind = next(what for name, what in keys.items() if name.fullmatch(key))
            assert raw.type(key) == {"stream": "stream", "hash": "hash", "sorted set": "zset"}[kind]
        ((entry, has),) = raw.xrange("redismem:user:{42}:history:a%20b")
        assert re.fullmatch(r"1-\d{13}", entry)
        assert all(any(name.fullmatch(field) for name in fields) for field in has)
        assert all(any(name.fullmatch(field) for field in has) for name in fields)
        (member,) = raw.zrange("redismem:thread:{t}:versions", -1, -1)
        assert raw.hkeys("redismem:thread:{t}:states") == [member.split()[0]] == ["1"]


@real_servers
def test_states_and_values_of_users_have_no_other_keys_and_fields(server: Server) -> None:
    headings = "States", "Preferences and temporal values"
    keys = {named(row[0]): (row[1], row[3]) for heading in headings for row in table(heading)}
    fields = [named(row[0]) for row in table("States", 1)]
    with Memory(server.url) as memory, readable(server) as raw:
        memory.states.set_task("a", "booking")
        memory.states.push("a", "paying")
        memory.states.set_variable("a", "to where", "Lisboa")
        memory.preferences.set("42", "a tone", "brief")
        memory.preferences.delete("42", "other")
        memory.temporal.put("42", "code", 4711, 100)
        present = set(raw.scan_iter())
        for key in present:
            kind, tiers = next(what for name, what in keys.items() if name.fullmatch(key))
            assert raw.type(key) == {"hash": "hash", "sorted set": "zset"}[kind]
            assert tiers in ("all", f"tier `{memory.health().tier}`")
        assert len(present) == 5 + (memory.health().tier == "deadlines")
        has = raw.hkeys("redismem:session:{a}:state")
        assert all(any(name.fullmatch(field) for name in fields) for field in has)
        assert all(any(name.fullmatch(field) for field in has) for name in fields)
        assert raw.hkeys("redismem:user:{42}:preferences") == ["a tone"]


def test_the_acl_is_the_workers() -> None:
    """`tests.contract.test_acl` proves that this is all that is needed, and no more."""
    shown = [command for block in blocks(PAGE) for command, _ in commands(block.text)]
    user = shlex.split(next(command for command in shown if "ACL SETUSER" in command))
    lines = (ROOT / "deploy" / "acl" / "valkey9.acl").read_text("ascii").splitlines()
    (rules,) = [line.split() for line in lines if line.startswith("user worker ")]
    assert user[user.index("worker") + 3 :] == rules[3:]


def test_exporters_group_keys_by_namespace(valkey: Server) -> None:
    pattern = re.search(r"--check-key-groups=(.+)", TEXT)
    count = re.search(r"--count-keys=db0=(.+)", TEXT)
    assert pattern
    assert count
    with Memory(valkey.url) as memory, redis.Redis(port=valkey.port, decode_responses=True) as raw:
        for session_id in ("a", "b/c", "d}:{e"):
            memory.sessions.save(session_id, "flags", "k", 1)
            memory.sessions.save(session_id, "x:y", "k", 1)
        group = "local found = {string.find(ARGV[1], ARGV[2])} return table.concat(found, '', 3)"
        groups = {raw.eval(group, 0, key, pattern[1]) for key in raw.scan_iter()}
        assert groups == {"redismem:session:meta", "redismem:session:ns:flags", "redismem:session:ns:x%3Ay"}
        assert len(list(raw.scan_iter(count[1]))) == 3


@real_servers
def test_work_by_hand(server: Server) -> None:
    key, deadlines = "redismem:session:{a}:ns:n", "redismem:session:{a}:ttl:n"
    with Memory(server.url) as memory, redis.Redis(port=server.port) as raw:
        sessions = memory.sessions
        has_deadlines = memory.health().tier == "deadlines"
        sessions.save_many("a", "n", {"dropped": 1, "counted": 1, "set": 1, "short": 1}, ttl=100)
        raw.hdel(key, "dropped")
        raw.zrem(deadlines, "dropped")
        raw.hincrby(key, "counted", 41)
        raw.hset(key, "set", 7)
        if has_deadlines:
            raw.zadd(deadlines, {"short": 1})
        else:
            raw.execute_command("HPEXPIRE", key, 1, "FIELDS", 1, "short")
        raw.script_flush()
        assert sessions.load("a", "n", "short") is None or not has_deadlines
        while "short" in (found := sessions.get_all("a", "n")):
            pass
        assert found == {"counted": 42, "set": 7}
        assert sessions.ttl("a", "n", "counted") == pytest.approx(100, abs=5)
        assert (sessions.ttl("a", "n", "set") is not None) is has_deadlines

        raw.delete(key, deadlines)
        assert sessions.info("a").namespaces == ()
        raw.hset(key, "made", 1)
        assert sessions.load("a", "n", "made") == 1
        assert sessions.namespaces("a") == []
        sessions.increment("a", "n", "made")
        assert sessions.namespaces("a") == ["n"]

        raw.unlink("redismem:session:{a}:meta", "redismem:session:{a}:ops", key, deadlines)
        assert sessions.info("a") is None
        assert raw.dbsize() == 0
