from datetime import timedelta

from cryptography import x509

from tests.workers.gateway.x509_matrix import CLIENT, NOW, SERVER, Authority, dns
from workers.gateway.rejection import (
    explain,
    is_costly,
    is_for_servers,
    may_name,
    usage_text,
    weak_key,
)


def test_the_leaf_is_blamed_before_its_chain():
    stranger = Authority("Stranger CA")
    chain = stranger.issue(dns("a.example"), end=NOW - timedelta(days=1), usage=[CLIENT]).chain
    assert "expired" in explain(chain, [], NOW, ValueError("x"))


def test_a_sound_chain_is_explained_by_the_verifiers_words():
    authority = Authority()
    chain = authority.issue(dns("a.example")).chain
    reason = explain(chain, [authority.certificate], NOW, ValueError("odd\nthing"))
    assert reason == "the certificate does not verify: odd?thing"


def test_a_ring_of_intermediates_ends():
    one, two = Authority("One"), Authority("Two")
    chain = [Authority("One", two).certificate, Authority("Two", one).certificate]
    assert explain(chain * 4, [], NOW, ValueError("x"))


def test_no_word_about_usage_is_good_for_servers():
    assert is_for_servers(None)


def test_elliptic_keys_are_not_weak():
    assert not weak_key(Authority().certificate)


def test_usages_are_told_by_name():
    assert usage_text(x509.ExtendedKeyUsage([SERVER, CLIENT])) == "clientAuth, serverAuth"
    assert usage_text(None) == "not restricted"


def test_name_constraints_hold_for_a_domain_and_what_is_below_it():
    def bound(*, permitted=None, excluded=None):
        constraints = x509.NameConstraints(permitted, excluded)
        return Authority(extensions=[constraints]).certificate

    permits = bound(permitted=dns("a.example"))
    assert may_name(permits, "a.example") and may_name(permits, "x.A.example")
    assert may_name(permits, "*.a.example")
    assert not may_name(permits, "xa.example") and not may_name(permits, "example")
    excludes = bound(excluded=dns("a.example"))
    assert may_name(excludes, "b.example") and not may_name(excludes, "x.a.example")
    assert may_name(Authority().certificate, "a.example")


def test_a_chain_that_is_made_to_cost_much_is_known_before_it_does():
    def chain(trees, names):
        bound = x509.NameConstraints(dns(*(f"a{n}.example" for n in range(trees))), None)
        mid = Authority("Mid", Authority("Root"), extensions=[bound])
        return mid.issue(dns(*(f"b{n}.a1.example" for n in range(names)))).chain

    assert is_costly(chain(1000, 1000))
    assert not is_costly(chain(20, 500)) and not is_costly(chain(1000, 1))
    assert not is_costly(chain(1000, 1000)[:1])
    assert not is_costly(Authority().issue(None).chain)
