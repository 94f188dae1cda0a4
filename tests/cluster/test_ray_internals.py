"""Private names of Ray: this version has them, and segtune runs without them."""

import pytest

from segtune.cluster.ray_internals import FEATURES, SWITCH, Feature, warn_if_incomplete

pytestmark = pytest.mark.ray


def import_absent_name() -> object:
    from ray._private import no_such_name  # pyright: ignore[reportAttributeAccessIssue]

    return no_such_name


def test_this_version_of_ray_has_every_private_name(caplog: pytest.LogCaptureFixture) -> None:
    assert all(feature.get() is not None for feature in FEATURES)
    warn_if_incomplete()
    assert caplog.text == ""


def test_feature_whose_name_is_absent_is_not_available() -> None:
    assert Feature(import_absent_name, fallback="").get() is None


def test_switch_turns_every_feature_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    assert all(feature.get() is None for feature in FEATURES)


def test_one_warning_names_every_fallback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SWITCH, "0")
    warn_if_incomplete()
    [record] = caplog.records
    assert all(feature.fallback in record.getMessage() for feature in FEATURES)
