"""What a pipeline becomes in a cluster, without any cluster."""

import pytest
import redis.exceptions

from redismem.errors import Busy, PartitionMismatch, WrongType
from redismem.link.faults import Aborted, Redirected, server_error
from redismem.link.slots import Topology, asking, keys_of, redirection, slot_of, sources_in, units, with_sources

FOO, BAR = 12182, 5061  # CLUSTER KEYSLOT of foo and bar


def moved(kind: type[redis.exceptions.AskError] = redis.exceptions.MovedError) -> Redirected:
    error = server_error(kind("12182 127.0.0.1:7001"), ("GET", "MOVED 1 evil:1"))
    assert isinstance(error, Redirected)
    return error


def test_slots_are_those_of_the_hash_tag():
    assert (slot_of("foo"), slot_of(b"bar"), slot_of("x{foo}y"), slot_of("redismem:{foo}:m")) == (FOO, BAR, FOO, FOO)


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (("PING",), ()),
        (("SCRIPT", "LOAD", "return 1"), ()),
        (("GET", "a"), ("a",)),
        (("HSET", "a", "f", "v"), ("a",)),
        (("EVALSHA", "sha", 2, "a", "b", "x"), ("a", "b")),
        (("EVAL", "return 1", 0, "x"), ()),
        (("DEL", "a", "b"), ("a", "b")),
        (("WATCH", "a", "b"), ("a", "b")),
        (("BLPOP", "a", "b", 0), ("a", "b")),
        (("LMOVE", "a", "b", "LEFT", "RIGHT"), ("a", "b")),
        (("MEMORY", "USAGE", "a"), ("a",)),
    ],
)
def test_the_keys_of_a_command(command, keys):
    assert tuple(keys_of(command)) == keys


def test_a_pipeline_falls_into_units():
    commands = [
        ("SCRIPT", "LOAD", "x"),
        ("EVAL", "x", 1, "foo"),
        ("GET", "bar"),
        ("MULTI",),
        ("GET", "foo"),
        ("GET", "x{foo}"),
        ("EXEC",),
        ("ECHO", "1"),
        ("MULTI",),
        ("GET", "bar"),
        ("EXEC",),
        ("PING",),
    ]
    found = list(units(commands))
    assert [(unit.start, unit.slot) for unit in found] == [(0, FOO), (2, BAR), (3, FOO), (7, BAR), (11, None)]
    assert [command for unit in found for command in unit.commands] == commands


@pytest.mark.parametrize(
    "commands",
    [
        [("DEL", "foo", "bar")],
        [("EVALSHA", "sha", 2, "foo", "bar")],
        [("MULTI",), ("GET", "foo"), ("GET", "bar"), ("EXEC",)],
    ],
)
def test_what_spans_slots_is_refused(commands):
    with pytest.raises(PartitionMismatch, match=r"bar.*hash tag.*nothing was sent"):
        list(units(commands))


def test_asking_goes_before_the_command_or_the_transaction():
    single, transaction = units(
        [("SCRIPT", "LOAD", "x"), ("EVAL", "x", 1, "foo"), ("MULTI",), ("GET", "foo"), ("EXEC",)]
    )
    for unit in (single, transaction):
        unit.ask = ("h", 1)
    assert single.sent() == [("SCRIPT", "LOAD", "x"), ("ASKING",), ("EVAL", "x", 1, "foo")]
    assert transaction.sent() == [("ASKING",), ("MULTI",), ("GET", "foo"), ("EXEC",)]
    assert single.received([b"sha", b"OK", 1]) == [b"sha", 1]
    assert transaction.received([b"OK", b"OK", b"QUEUED", [b"1"]]) == [b"OK", b"QUEUED", [b"1"]]


def test_asking_on_a_connection_of_ones_own():
    commands = [("WATCH", "foo"), ("GET", "foo"), ("MULTI",), ("SET", "foo", 1), ("EXEC",), ("PING",)]
    asked = ("ASKING",)
    assert asking(commands, inside=False) == [asked, commands[0], asked, commands[1], asked, *commands[2:]]
    assert asking([("SET", "foo", 1), ("EXEC",), ("GET", "foo")], inside=True)[2] == asked


def test_a_refusal_is_one_of_the_whole_unit():
    (single,) = units([("GET", "foo")])
    assert isinstance(single.refusal([moved()]), Redirected)
    assert isinstance(single.refusal([Busy("CLUSTERDOWN")]), Busy)
    assert single.refusal([WrongType("no")]) is None
    (transaction,) = units([("MULTI",), ("GET", "foo"), ("EXEC",)])
    assert isinstance(transaction.refusal([b"OK", moved(), Aborted("EXECABORT")]), Redirected)
    assert isinstance(transaction.refusal([b"OK", b"QUEUED", moved()]), Redirected)
    assert transaction.refusal([b"OK", WrongType("no"), Aborted("EXECABORT")]) is None
    assert transaction.refusal([b"OK", b"QUEUED", [b"1"]]) is None


def test_redirections_say_where_and_nothing_else_can():
    assert (moved().slot, moved().host, moved().port, moved().asking) == (12182, "127.0.0.1", 7001, False)
    assert moved(redis.exceptions.AskError).asking
    assert redirection([("GET", "foo"), ("PING",)], [moved(), b"PONG"])
    assert redirection([("GET", "foo"), ("GET", "foo")], [b"1", moved()]) is None
    assert redirection([("PING",)], [b"PONG"]) is None


def test_what_one_node_is_told_each_is():
    commands = [("EVAL", "return 1", 1, "foo"), ("EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", 1, "bar")]
    sources = sources_in(commands)
    assert sources == {commands[1][1]: "return 1"}
    assert with_sources([commands[1], commands[1]], sources) == [("EVAL", "return 1", 1, "bar"), commands[1]]
    assert sources_in(commands[:1]) == {}


def test_a_topology_knows_owners_and_everyone():
    rows = [
        [0, 5460, [b"127.0.0.1", 7000, b"id"], [b"127.0.0.1", 7003, b"id"]],
        [5461, 16382, [b"", 7001, b"id"], [b"?", 7004, b"id", []]],
    ]
    topology = Topology.of(rows, ("asked", 7002))
    assert topology.owner(0) == ("127.0.0.1", 7000)
    assert topology.owner(5461) == ("asked", 7001)
    assert topology.owner(16383) is None
    assert topology.owner(None) in topology.primaries
    assert set(topology.nodes()) == {*topology.primaries, ("127.0.0.1", 7003), ("asked", 7004)}
    topology.learn(16383, ("other", 1))
    assert topology.owner(16383) == ("other", 1)
    assert Topology([]).owner(None) is None
