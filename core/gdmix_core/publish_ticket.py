"""What the processes of a distributed publication share; plain facts, cheap to import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PublishTicket:
    """The right to write one version; all that the processes of a distributed publication share.

    Attributes:
        model: name of the model.
        version: number taken from the store.
        active: version that was active when the publication began: what activation compares with.
        epoch: the coordinator's epoch, None without a coordinator.
        owner: identity of the coordinator's journal, "" when it has none.
        token: random name of the publication; "" trusts the number alone.
    """

    model: str
    version: int
    active: int | None = None
    epoch: int | None = None
    owner: str = ""
    token: str = ""
