"""What writing stores of users have in common: scripts that take effect once, however often they have to be sent."""

from collections.abc import Sequence

from redismem.durability import Durability
from redismem.link.base import Argument, Command, Reply
from redismem.operations import IDEMPOTENT
from redismem.scripts import script
from redismem.stores.store import Store


class Effects(Store):
    """A store whose scripts begin with the three arguments of lua/lib/once.lua."""

    async def _effect(
        self,
        verb: str,
        keys: Sequence[Argument],
        arguments: Sequence[Argument],
        durable: Durability | None,
        *,
        once: bool = True,
        ahead: Sequence[Command] = (),
    ) -> Reply:
        """The reply of a script that writes. `once`: applying it twice is not applying it once.

        Commands that are to be sent `ahead` go in the same round trip, and may be sent several times.
        """
        call = script(verb, (await self._link.features()).tier)
        receipt = await self._receipt(durable)
        reply: Reply = None
        if not once:
            reply = await call(self._link, keys, (*IDEMPOTENT, *arguments), durable=receipt, ahead=ahead)
        else:
            while reply in (None, [b"AGAIN"]):  # AGAIN alone: refused, and nobody heard why
                with self._shared.operations.one(verb) as operation:
                    reply = await call(self._link, keys, (*operation, *arguments), durable=receipt, ahead=ahead)
        if receipt is not None:
            receipt.check()
        return reply
