"""Code as it was written for an earlier memory system, with another import."""

from redismem.compat.orchestrator import AsyncStoreAdapter, SimpleMemory
from tests.servers import Server


async def test_values_under_tuples(server: Server) -> None:
    store = AsyncStoreAdapter(server.url)
    namespace = ("memory", "user-1")
    assert await store.aget(namespace, "SimpleMemory") == SimpleMemory()
    await store.aput(namespace, "SimpleMemory", {"accounts": [{"name": "Acme"}]})
    await store.aput(
        namespace, "SimpleMemory", SimpleMemory.model_validate({"accounts": [{"id": "1", "name": "ACME"}]})
    )
    assert [(one.id, one.name) for one in (await store.aget(namespace, "SimpleMemory")).accounts] == [("1", "ACME")]

    await store.aput(("threads", "t-1"), "state_t-1", {"messages": [{"role": "user", "content": "Hi"}]})
    assert (await store.aget(("threads", "t-1"), "state_t-1"))["messages"][0]["content"] == "Hi"
    assert await store.aget(("threads", "t-2"), "state_t-2") is None

    await store.aput(("a/b", "c"), "k", 1)
    await store.aput(("a", "b/c"), "k", 2)
    assert [await store.aget(namespace, "k") for namespace in (("a/b", "c"), ("a", "b/c"), ("a",))] == [1, 2, None]
    await store.aclose()
