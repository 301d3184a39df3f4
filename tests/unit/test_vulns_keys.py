"""Version keys: bytes that sort as the package managers sort versions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version
from univers import versions as univers

from sensor.images.vulns.keys import ALWAYS, NEVER, after, apk_key, deb_key, rpm_key
from sensor.images.vulns.language_keys import (
    gem_key,
    go_key,
    maven_key,
    nuget_key,
    pep440_key,
    semver_key,
)

Key = Callable[[str], bytes]


def agree(key: Key, reference: Callable[[str], Any], left: str, right: str) -> None:
    """The key orders two versions as the reference does."""
    a, b = reference(left), reference(right)
    assert (key(left) < key(right)) == (a < b), (left, right)
    assert (key(left) > key(right)) == (b < a), (left, right)


def dotted(part: str) -> str:
    """A pattern: such parts, joined by dots."""
    return rf"{part}(\.{part}){{0,3}}"


NUMBER = "(0|[1-9][0-9]{0,2})"
DEB = st.from_regex(
    r"([0-2]:)?[0-9][0-9a-c.+~]{0,6}(-[0-9a-c.+~]{1,4}){0,2}",
    fullmatch=True,
    alphabet="01239abc.+~-:",
)
APK = st.from_regex(
    rf"{NUMBER}(\.[0-9]{{1,3}}){{0,3}}[a-c]?(_(alpha|beta|pre|rc|p)[0-9]{{0,2}}){{0,2}}(-r[0-9]{{1,2}})?",
    fullmatch=True,
)
RPM_PART = r"[0-9a-c]([0-9a-c.~^_+]{0,5}[0-9a-c])?"
RPM = st.from_regex(rf"([0-2]:)?{RPM_PART}-{RPM_PART}", fullmatch=True)
SEMVER_PRE = r"(0|[1-9][0-9]{0,2}|[a-c][0-9a-c-]{0,2})"
SEMVER = st.from_regex(
    rf"{NUMBER}\.{NUMBER}\.{NUMBER}(-{SEMVER_PRE}(\.{SEMVER_PRE}){{0,2}})?", fullmatch=True
)
PEP440 = st.from_regex(
    rf"([01]!)?{dotted('[0-9]{1,2}')}((a|b|rc)[0-9]{{1,2}})?(\.post[0-9])?(\.dev[0-9])?"
    r"(\+[a-c0-9]{1,2}(\.[a-c0-9]{1,2})?)?",
    fullmatch=True,
)
GEM = st.from_regex(rf"{dotted(NUMBER)}(\.(a|b|rc)[0-9]?)?(\.[0-9])?", fullmatch=True)
NUGET = st.from_regex(
    rf"{NUMBER}\.{NUMBER}\.{NUMBER}(\.{NUMBER})?(-{SEMVER_PRE}(\.{SEMVER_PRE})?)?", fullmatch=True
)
MAVEN = st.from_regex(
    rf"{dotted(NUMBER)}(-(alpha|beta|milestone|rc|snapshot|sp|jre|x)(-?[1-9])?)?", fullmatch=True
)


@given(DEB, DEB)
def test_debian(left: str, right: str) -> None:
    """As dpkg does."""
    agree(deb_key, univers.DebianVersion, left, right)


@given(APK, APK)
def test_alpine(left: str, right: str) -> None:
    """As apk does."""
    agree(apk_key, univers.AlpineLinuxVersion, left, right)


@given(RPM, RPM)
def test_rpm(left: str, right: str) -> None:
    """As rpm does."""
    agree(rpm_key, univers.RpmVersion, left, right)


@given(SEMVER, SEMVER)
def test_semantic_versions(left: str, right: str) -> None:
    """As npm, Cargo and Go do."""
    agree(semver_key, univers.SemverVersion, left, right)
    assert go_key(f"v{left}") == semver_key(left)


@given(PEP440, PEP440)
def test_python(left: str, right: str) -> None:
    """As pip does."""
    agree(pep440_key, Version, left, right)


@given(GEM, GEM)
def test_ruby(left: str, right: str) -> None:
    """As RubyGems does."""
    agree(gem_key, univers.RubygemsVersion, left, right)


@given(NUGET, NUGET)
def test_nuget(left: str, right: str) -> None:
    """As NuGet does."""
    agree(nuget_key, univers.NugetVersion, left, right)


@given(MAVEN, MAVEN)
def test_maven(left: str, right: str) -> None:
    """As Maven does, of versions as people write them."""
    agree(maven_key, univers.MavenVersion, left, right)


@pytest.mark.parametrize(
    ("key", "ordered"),
    [
        # From dpkg's and Debian policy's own examples.
        (deb_key, "~~ ~~a ~ 0 0a 1.0~rc1-1 1.0-1 1.0-1+deb12u1 1.0-1.1 1.0a-1 1.0+dfsg-1"),
        (deb_key, "1.0+dfsg-1 a 1:0.1-1"),
        (deb_key, "9 10 99999999999999999999 100000000000000000000"),
        # From apk-tools' test/unit/version.data.
        (apk_key, "1.0_alpha 1.0_alpha2 1.0_beta 1.0_pre1 1.0_rc1 1.0-r0 1.0-r1 1.0_cvs1"),
        (apk_key, "1.0_svn1 1.0_git20200101 1.0_p1 1.0_p10 1.0a 1.0b 1.0.1"),
        (apk_key, "0.05 0.06 0.1 1 1.001 1.01 1.05 1.1 1.9 1.10"),
        (apk_key, "1.0.0 02.08.01b 2.10.1 006 013 014-r1 087-r1 103 021109-r3 20060512"),
        (apk_key, "0.1.0_alpha_pre2 0.1.0_alpha 0.1.0 1.0_pre20191002222144 1.0_pre20210530193627"),
        # From rpm's tests/rpmvercmp.at.
        (rpm_key, "1.0~rc1-1 1.0~rc1^git1-1 1.0-1 1.0^20160101-1 1.0^20160102-1 1.0.a-1"),
        (rpm_key, "1.0.a-1 1.0.1-1 1.1-1 1:0.9-1"),
        (pep440_key, "1.dev0 1a1.dev1 1a1 1a1.post1 1b1 1rc1 1 1+abc 1+1 1.post1.dev1 1.post1"),
        (pep440_key, "1.post1 1.1 1!0"),
        (semver_key, "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2"),
        (semver_key, "1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0 1.0.1"),
        (go_key, "v0.0.0-20190101000000-aaaaaaaaaaaa v0.0.0-20200101000000-000000000000 v0.0.1"),
        (go_key, "go1.21beta1 go1.21rc1 go1.21 go1.21.1 1.22rc1 v2.0.0+incompatible"),
        # From Maven's own tests: MNG-5568, MNG-6572.
        (maven_key, "6.1.0rc3 6.1.0 6.1H.5-beta 20190126.230843 123456789012345.1H.5-beta"),
        (maven_key, "1.0-alpha-1-SNAPSHOT 1.0-alpha-1 1.0-SNAPSHOT 1.0 1.0-1 1.0.1-klm 1.0.1-lmn"),
        (maven_key, "1-alpha-1 1-alpha2 1-beta 1-milestone 1-rc1 1-snapshot 1 1-sp 1-abc 1-1 1.1"),
        (gem_key, "1.0.a 1.0.a.2 1.0.b1 1.0 1.0.1 1.1"),
        (nuget_key, "1.0.0-ALPHA 1.0.0-beta 1.0.0 1.0.0.1 1.0.1"),
    ],
)  # fmt: skip
def test_known_orders(key: Key, ordered: str) -> None:
    """Examples of the package managers' own documentation and tests, oldest first."""
    for left, right in pairwise(ordered.split()):
        assert key(left) < key(right), (left, right)


@pytest.mark.parametrize(
    ("key", "equal"),
    [
        (deb_key, "0:1.0-0 1.0 1.00-0"),
        (apk_key, "1.2_p0-r0 1.2_p"),
        (rpm_key, "1.0.-1 1..0-1 0:1.0-01"),
        (pep440_key, "1 1.0 1.0.0 v1"),
        (semver_key, "1 1.0 v1.0.0 1.0.0+build"),
        (maven_key, "1 1.0 1.0.0 1-ga 1.0-FINAL 1.Release"),
        (maven_key, "1-a1 1-alpha-1 1.0-alpha-1"),
        (maven_key, "1-1.foo-bar-1-baz-0.1 1-1.foo-bar1baz-.1"),
        (maven_key, "1x 1-x 1.0.0-x 1.0.0-x.0.0"),
        (maven_key, "1-1 1-ga-1"),
        (gem_key, "1 1.0 1.0.0"),
        (nuget_key, "1.0 1.0.0.0"),
    ],
)
def test_known_equals(key: Key, equal: str) -> None:
    """Different texts for one version."""
    assert len({key(text) for text in equal.split()}) == 1


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (deb_key, ""), (deb_key, "1.0/2"), (deb_key, "ü"), (deb_key, "1" * 300),
        (apk_key, "5.1p1-r0"), (apk_key, "1-r-1"), (apk_key, "1_foo1"), (apk_key, ""),
        (rpm_key, ""), (rpm_key, "a:1-1"), (semver_key, "latest"), (semver_key, ""),
        (pep440_key, "1.0-final-x"), (go_key, "devel"), (maven_key, ""), (maven_key, "1 2"),
        (maven_key, "1-" * 100), (gem_key, "x"), (nuget_key, "a.b"),
    ],
)  # fmt: skip
def test_what_is_no_version_is_said(key: Key, text: str) -> None:
    """Never a wrong place in the order: an error that can be counted."""
    with pytest.raises(ValueError, match=r"version|digits"):
        key(text)


@given(st.one_of(DEB.map(deb_key), RPM.map(rpm_key), PEP440.map(pep440_key), MAVEN.map(maven_key)))
def test_ends_of_ranges(key: bytes) -> None:
    """What has no end holds every version, what is empty none, an inclusive end its own."""
    assert NEVER < key < after(key) < ALWAYS


@given(st.text(max_size=30))
def test_any_text_has_a_key_or_an_error(text: str) -> None:
    """Feeds hold anything; nothing but ValueError comes of it."""
    for key in (deb_key, apk_key, rpm_key, pep440_key, go_key, maven_key, gem_key, nuget_key):
        with contextlib.suppress(ValueError):
            assert NEVER < key(text) < ALWAYS
