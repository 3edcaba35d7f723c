"""Names of earlier memory systems, on redismem: change the import and the URL, and keep the code.

================================  =====================================================================================
`redismem.compat.sessions`        `MemoryStore`: sessions, namespaces, keys
`redismem.compat.memory_system`   `memory_system`: thread-safe user contexts
`redismem.compat.architecture`    `AsyncEpisodicMemoryStore`, `AsyncSemanticMemoryStore`, `AsyncSkillMemoryStore`
`redismem.compat.orchestrator`    `AsyncStoreAdapter`: `aget` and `aput` by tuples
================================  =====================================================================================

They are tables of names over the stores, with nothing of their own.
"""
