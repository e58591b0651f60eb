"""What is left of a deployment as rows to show: what it is, and what it costs a month; pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sdctl.clients.tagging import Found
from sdctl.prices import Charge, Price, Total, total

# These are paid for by how much they hold, which takes other reads to know.
HOLDING: Final = frozenset({"s3:bucket", "logs:log-group", "dynamodb:table", "ecr:repository"})
# A snapshot keeps what was ever written, which AWS does not tell: its volume's size is the most.
AT_MOST: Final = frozenset({"ec2:snapshot"})
LISTED_ONLY: Final = "by the list of tags, where it may be for a while after it is gone"
PriceKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One resource: `monthly` is None where it is not known; `note` says why, or how to read it."""

    type: str
    id: str
    monthly: float | None
    currency: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What is left of a deployment: `kept` stays on purpose, `left` does not; `sum` is of both."""

    left: tuple[Row, ...]
    kept: tuple[Row, ...]
    sum: Total

    @property
    def billable(self) -> tuple[Row, ...]:
        """What costs something, or may, and is not kept."""
        return tuple(row for row in self.left if row.monthly is None or row.monthly > 0)

    @property
    def unsure(self) -> tuple[Row, ...]:
        """What only the list of tags still has."""
        return tuple(row for row in self.left if row.note == LISTED_ONLY)


def inventory(found: Sequence[Found], prices: Mapping[PriceKey, Price], kept: Container[str]) -> Inventory:
    """Take stock of what was found.

    Args:
        found: the resources.
        prices: of `price_keys`, as far as they are known.
        kept: the ids of buckets and snapshots that stay on purpose.
    """
    listed = rows(found, prices)
    return Inventory(
        tuple(row for row in listed if row.id not in kept),
        tuple(row for row in listed if row.id in kept),
        sum_of(found, prices),
    )


def price_keys(found: Iterable[Found]) -> tuple[PriceKey, ...]:
    """Return what prices are needed, as (name, zone of spot capacity or nothing), each once."""
    return tuple(sorted({(one.priced_as, one.spot_zone) for one in found if one.priced_as}))


def rows(found: Iterable[Found], prices: Mapping[PriceKey, Price]) -> tuple[Row, ...]:
    """Say what each resource costs a month for being there; what is paid by use costs nothing idle.

    Args:
        found: the resources.
        prices: of `price_keys`, as far as they are known.
    """
    return tuple(_row(one, prices.get((one.priced_as, one.spot_zone))) for one in found)


def sum_of(found: Iterable[Found], prices: Mapping[PriceKey, Price]) -> Total:
    """Add up what has a price; what is paid by what it holds counts as not priced.

    Raises:
        ValueError: the prices are in more than one currency.
    """
    charges = [
        Charge(one.id, one.quantity, prices.get((one.priced_as, one.spot_zone)))
        for one in found
        if one.is_seen and (one.priced_as or one.type in HOLDING)
    ]
    return total(charges)


def _row(one: Found, price: Price | None) -> Row:
    if not one.is_seen:
        return Row(one.type, one.id, 0.0, note=LISTED_ONLY)
    if one.type in HOLDING:
        return Row(one.type, one.id, None, note="by what it holds")
    if not one.priced_as:
        return Row(one.type, one.id, 0.0)
    if price is None:
        return Row(one.type, one.id, None, note="no price is known")
    monthly = Charge(one.id, one.quantity, price).monthly
    note = "at most" if one.type in AT_MOST else ""
    return Row(one.type, one.id, monthly, price.currency, note)
