from datetime import timedelta

from tests.workers.gateway.x509_matrix import CLIENT, NOW, Authority, dns
from workers.gateway.rejection import explain, has_weak_key, is_for_servers


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
    assert not has_weak_key(Authority().certificate)
