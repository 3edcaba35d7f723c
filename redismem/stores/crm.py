"""The six entities of a customer's world, ready-made, and `SimpleMemory`, which holds them all.

Models of your own are made the same way: a frozen pydantic model with an `Id`, a `NaturalKey`, or both.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from redismem.stores.identity import Id, NaturalKey


class Entity(BaseModel):
    """What entities have in common: they do not change, and what is not known of them is ignored.

    A blank text is None where that may be: language models say it of what they do not know.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    @field_validator("*", mode="before")
    @classmethod
    def _say_nothing(cls, value: object, info: ValidationInfo) -> object:
        is_blank = isinstance(value, str) and not value.strip()
        return None if is_blank and cls.model_fields[str(info.field_name)].default is None else value


class SimpleAccount(Entity):
    """A company that is a customer, or may become one."""

    id: Annotated[str | None, Id] = None
    name: Annotated[str, NaturalKey]


class SimpleContact(Entity):
    """A person at an account."""

    id: Annotated[str | None, Id] = None
    name: Annotated[str, NaturalKey]
    account_id: str | None = None
    account_name: str | None = None


class SimpleOpportunity(Entity):
    """A sale that may come about."""

    id: Annotated[str | None, Id] = None
    name: Annotated[str, NaturalKey]
    stage: str | None = None
    amount: float | None = None
    close_date: str | None = None
    account_id: str | None = None
    account_name: str | None = None


class SimpleCase(Entity):
    """A problem that a customer has."""

    id: Annotated[str | None, Id] = None
    subject: Annotated[str, NaturalKey]
    status: str | None = None
    priority: str | None = None
    account_id: str | None = None
    contact_id: str | None = None


class SimpleTask(Entity):
    """Something to do."""

    id: Annotated[str | None, Id] = None
    subject: Annotated[str, NaturalKey]
    status: str | None = None
    due_date: str | None = None
    related_to_id: str | None = None
    related_to_type: str | None = None


class SimpleLead(Entity):
    """Somebody who may become a customer."""

    id: Annotated[str | None, Id] = None
    name: Annotated[str, NaturalKey]
    company: str | None = None
    status: str | None = None
    email: str | None = None


class SimpleMemory(Entity):
    """All that is known of a user's accounts, contacts, opportunities, cases, tasks and leads."""

    accounts: list[SimpleAccount] = []
    contacts: list[SimpleContact] = []
    opportunities: list[SimpleOpportunity] = []
    cases: list[SimpleCase] = []
    tasks: list[SimpleTask] = []
    leads: list[SimpleLead] = []
