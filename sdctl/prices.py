"""What things cost: prices as data, and the sums that `status`, `doctor` and `destroy` show; pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

# AWS's own month: https://calculator.aws/
HOURS_A_MONTH: Final = 730
Unit = Literal["hour", "gib-month"]

EKS_CLUSTER: Final = "eks-cluster"
NAT_GATEWAY: Final = "nat-gateway"
PUBLIC_ADDRESS: Final = "public-ipv4"
VPC_ENDPOINT: Final = "vpc-endpoint"
VOLUME: Final = "gp3-volume"
SNAPSHOT: Final = "ebs-snapshot"
FAST_RESTORE: Final = "fast-snapshot-restore"


@dataclass(frozen=True, slots=True)
class Price:
    """A list price for one unit: `source` says whose figure it is, and of when or where if that matters."""

    amount: float
    currency: str
    unit: Unit = "hour"
    source: str = "AWS price list"


@dataclass(frozen=True, slots=True)
class Charge:
    """Something that costs: `quantity` is pieces of what is paid by the hour, GiB of what is stored."""

    what: str
    quantity: float
    price: Price | None

    @property
    def monthly(self) -> float | None:
        """What it costs a month, or None where no price is known."""
        if self.price is None:
            return None
        hours = HOURS_A_MONTH if self.price.unit == "hour" else 1
        return self.quantity * self.price.amount * hours

    @property
    def hourly(self) -> float | None:
        """What it costs an hour, or None where no price is known."""
        return None if self.monthly is None else self.monthly / HOURS_A_MONTH


@dataclass(frozen=True, slots=True)
class Total:
    """A sum of charges: `unpriced` names those that are not in it."""

    hourly: float
    currency: str
    unpriced: tuple[str, ...] = ()

    @property
    def monthly(self) -> float:
        """The same a month."""
        return self.hourly * HOURS_A_MONTH


def total(charges: Iterable[Charge]) -> Total:
    """Add charges up.

    Raises:
        ValueError: their prices are in more than one currency.
    """
    listed = tuple(charges)
    currencies = {charge.price.currency for charge in listed if charge.price is not None}
    if len(currencies) > 1:
        raise ValueError(f"prices in {' and '.join(sorted(currencies))} cannot be added")
    return Total(
        sum(charge.hourly or 0.0 for charge in listed),
        currencies.pop() if currencies else "",
        tuple(charge.what for charge in listed if charge.price is None),
    )


_PUBLISHED: Final = "us-west-2 in March 2026"
# Where the price list cannot be asked. From the cost table of the AWS guidance that this project follows,
# https://github.com/aws-solutions-library-samples/guidance-for-asynchronous-inference-with-stable-diffusion-on-aws
# which gives the cluster as 72 dollars for 720 hours, and average spot prices. It has no price of the rest.
_REFERENCE: Final = {
    (EKS_CLUSTER, "on-demand"): 0.10,
    ("m7g.large", "on-demand"): 0.0816,
    ("g5.2xlarge", "spot"): 0.53,
    ("g6.2xlarge", "spot"): 0.53,
}


def reference_price(name: str, capacity: Literal["on-demand", "spot"] = "on-demand") -> Price | None:
    """Return a published price to go by where AWS cannot be asked, or None: its source says what it is.

    Args:
        name: an instance type, or one of this module's names.
        capacity: of an instance.
    """
    amount = _REFERENCE.get((name, capacity))
    return None if amount is None else Price(amount, "USD", source=_PUBLISHED)
