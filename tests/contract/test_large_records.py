"""Records of more fields, and more records at once, than Lua unpacks."""

from typing import Annotated

from pydantic import BaseModel

from redismem import AsyncMemory, Sum, Union
from tests.contract.flavours import on_real_servers

pytestmark = on_real_servers

MANY = 9_000


class Crowd(BaseModel, frozen=True):
    visits: Annotated[int, Sum] = 0
    names: Annotated[frozenset[int], Union] = frozenset()


async def test_many_members(memory: AsyncMemory) -> None:
    crowds = memory.records("crowd", Crowd)
    crowd = Crowd(visits=1, names=frozenset(range(MANY)))
    merged = await crowds.merge("42", "a", crowd)
    assert (merged.version, merged.created, merged.changed) == (1, True, {"visits", "names"})
    assert await crowds.get("42", "a") == crowd
    assert await crowds.ids("42") == ["a"]
    assert (await crowds.replace("42", "a", Crowd())).changed == {"visits", "names"}
    assert await crowds.get("42", "a") == Crowd()


async def test_many_records(memory: AsyncMemory) -> None:
    crowds = memory.records("crowd", Crowd)
    ids = [str(number) for number in range(MANY)]
    merged = await crowds.merge_many("42", {record_id: {"visits": 1} for record_id in ids})
    assert all(one.created for one in merged.values())
    assert await crowds.delete("42", *ids) == MANY
    assert await crowds.ids("42") == []
