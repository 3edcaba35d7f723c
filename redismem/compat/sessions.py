"""`MemoryStore`: short-lived state as session, namespace and key, as `redismem.SessionStore` has it."""

from redismem.memory import create_store
from redismem.stores.in_memory import InMemorySessionStore
from redismem.stores.sessions import SessionStore as MemoryStore

__all__ = ["InMemorySessionStore", "MemoryStore", "create_store"]
