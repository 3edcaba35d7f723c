"""Search in process memory, over the documents of one scope: text, vectors, filters, and what a conversation adds.

Nothing in here knows Redis, or reads a clock: whoever owns an `Index` tells it of changes, and passes the time in.
"""

from redismem.search.document import Document, Hit, Query
from redismem.search.documents import Documents
from redismem.search.embedder import Callable, Embedder, Hashing, SentenceTransformers
from redismem.search.index import Index
from redismem.search.ranking import Weights

__all__ = [
    "Callable",
    "Document",
    "Documents",
    "Embedder",
    "Hashing",
    "Hit",
    "Index",
    "Query",
    "SentenceTransformers",
    "Weights",
]
