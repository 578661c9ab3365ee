"""The matrix of certificates: good and bad ones for one domain, each with what is said about it."""

import ipaddress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from tests.workers.gateway.x509_matrix import (
    CLIENT,
    NOW,
    SERVER,
    Authority,
    Leaf,
    dns,
    self_signed,
    srv,
    xmpp_addr,
)

DOMAIN = "chat.verona.example"
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Cell:
    """`reason` is part of what log, peer and `fedgate check` are told; "" for a good one."""

    name: str
    leaf: Leaf
    reason: str = ""


class Matrix:
    """Makes every cell anew from one trusted authority; valid around the time of the test."""

    def __init__(self) -> None:
        self.root = Authority("Test CA")

    def leaf(self, *names: x509.GeneralName, by: Authority | None = None, **options: Any) -> Leaf:
        return (by or self.root).issue(list(names or dns(DOMAIN)), **options)

    def below(self, **options: Any) -> Leaf:
        """A good leaf of an intermediate authority that is not."""
        return self.leaf(by=Authority("Mid CA", self.root, **options))

    def good(self) -> list[Cell]:
        serves = x509.ExtendedKeyUsage([SERVER])
        mid = Authority("Mid CA", self.root, extensions=[serves])
        low = Authority("Low CA", mid)
        other = Authority("Other CA")
        shuffled = self.leaf(by=low)
        shuffled.chain[1:] = shuffled.chain[:0:-1]
        superfluous = self.leaf()
        superfluous.chain.append(other.certificate)
        return [
            Cell("dns", self.leaf()),
            Cell("wildcard", self.leaf(*dns("*.verona.example"))),
            Cell("upper-case", self.leaf(*dns(DOMAIN.upper()))),
            Cell("srv", self.leaf(srv(f"_xmpp-server.{DOMAIN}"))),
            Cell("xmpp-addr", self.leaf(xmpp_addr(DOMAIN))),
            Cell("many-names", self.leaf(*dns("a.example", "b.example", DOMAIN))),
            Cell("both-usages", self.leaf(usage=[SERVER, CLIENT])),
            Cell("no-usage", self.leaf(usage=[])),
            Cell("ed25519", self.leaf(key=ed25519.Ed25519PrivateKey.generate())),
            Cell("rsa", self.leaf(key=rsa.generate_private_key(65537, 2048))),
            Cell("intermediate-for-servers-only", self.leaf(by=mid)),
            Cell("two-intermediates", self.leaf(by=low)),
            Cell("shuffled", shuffled),
            Cell("superfluous", superfluous),
            Cell("cross-signed", self._cross_signed(other)),
            Cell("permitted", self.below(extensions=[_constraints("verona.example")])),
        ]

    def bad(self) -> list[Cell]:
        return [*self._bad_leaves(), *self._bad_names(), *self._bad_chains()]

    def _bad_leaves(self) -> list[Cell]:
        unknown = x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00")
        return [
            Cell("expired", self.leaf(start=NOW - 9 * DAY, end=NOW - DAY), "expired on"),
            Cell(
                "not-yet",
                self.leaf(start=NOW + DAY, end=NOW + 9 * DAY),
                "the certificate is not valid before",
            ),
            Cell("client-usage", self.leaf(usage=[CLIENT]), "is for clientAuth, not for server"),
            Cell(
                "code-usage",
                self.leaf(usage=[ExtendedKeyUsageOID.CODE_SIGNING]),
                "is for codeSigning, not for server",
            ),
            Cell(
                "any-usage",
                self.leaf(usage=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),
                "is for 2.5.29.37.0, not for server",
            ),
            Cell("authority", self.leaf(is_authority=True), "one of an authority, not of a server"),
            Cell(
                "weak-rsa",
                self.leaf(key=rsa.generate_private_key(65537, 1024)),
                "the certificate has an RSA key of less than 2048 bits",
            ),
            Cell("critical", self.leaf(critical=[unknown]), "critical extension that nobody knows"),
            Cell(
                "self-signed",
                self_signed(DOMAIN),
                "self-signed and not trusted",
            ),
        ]

    def _bad_names(self) -> list[Cell]:
        address = x509.IPAddress(ipaddress.ip_address("192.0.2.1"))
        common = self.root.issue(None, common_name=DOMAIN)
        return [
            Cell("common-name", common, "no subjectAltName"),
            *(
                Cell(name, self.leaf(san), f"names no domain, only {shown}")
                for name, san, shown in (
                    ("address", address, "192.0.2.1"),
                    ("nul", dns(f"{DOMAIN}\0.evil.example")[0], f"{DOMAIN}?.evil.example"),
                    ("top-level-wildcard", dns("*.example")[0], "*.example"),
                    ("inner-wildcard", dns("chat.*.example")[0], "chat.*.example"),
                    ("part-wildcard", dns("c*.verona.example")[0], "c*.verona.example"),
                    ("user", xmpp_addr(f"romeo@{DOMAIN}"), f"romeo@{DOMAIN}"),
                    ("resource", xmpp_addr(f"{DOMAIN}/home"), f"{DOMAIN}/home"),
                    ("client-service", srv(f"_xmpp-client.{DOMAIN}"), f"_xmpp-client.{DOMAIN}"),
                    ("e-mail", x509.RFC822Name(f"a@{DOMAIN}"), f"a@{DOMAIN}"),
                )
            ),
            *(
                Cell(name, self.leaf(san), f"is for {san.value}, not for {DOMAIN}")
                for name, san in (
                    ("other-domain", dns("other.example")[0]),
                    ("parent", dns("verona.example")[0]),
                    ("subdomain", dns(f"x.{DOMAIN}")[0]),
                    ("wildcard-below", dns(f"*.{DOMAIN}")[0]),
                    ("look-alike", dns("chat.xn--verna-jua.example")[0]),
                )
            ),
        ]

    def _bad_chains(self) -> list[Cell]:
        low = Authority("Low CA", self.root, path_length=0)
        stranger = Authority("Stranger CA")
        told = self.leaf(by=stranger)
        told.chain.append(stranger.certificate)
        short = self.below()
        del short.chain[1:]
        deep = self.root
        for number in range(8):
            deep = Authority(f"CA {number}", deep)
        past, soon = {"end": NOW - DAY}, {"start": NOW + DAY}
        client = x509.ExtendedKeyUsage([CLIENT])
        weak = rsa.generate_private_key(65537, 1024)
        bound = Authority("Bound CA", self.root, extensions=[_constraints("evil.example")])
        smuggled = self.leaf(*dns("evil.example"), srv(f"_xmpp-server.{DOMAIN}"), by=bound)
        return [
            Cell("missing-intermediate", short, "missing intermediate: Mid CA is not trusted"),
            Cell("unknown-authority", self.leaf(by=stranger), "missing intermediate: Stranger CA"),
            Cell("untrusted-root", told, "the chain ends at Stranger CA"),
            Cell("forged", self.leaf(by=Authority("Test CA")), "the signature is not by"),
            Cell("mid-expired", self.below(**past), "intermediate certificate Mid CA expired"),
            Cell("mid-not-yet", self.below(**soon), "Mid CA is not valid before"),
            Cell("mid-weak", self.below(key=weak), "Mid CA has an RSA key"),
            Cell("mid-no-authority", self.below(is_authority=False), "Mid CA is not one of an"),
            Cell("mid-signs-nothing", self.below(signs=False), "Mid CA may not sign"),
            Cell("mid-usage", self.below(extensions=[client]), "Mid CA issues for clientAuth"),
            Cell(
                "mid-bound", self.below(extensions=[_constraints("evil.example")]), "may not issue"
            ),
            Cell("smuggled", smuggled, f"is for evil.example, not for {DOMAIN}"),
            Cell(
                "path-length",
                self.leaf(by=Authority("Mid CA", low)),
                "Low CA permits no more than 0 authorities",
            ),
            Cell("costly", self._costly(), "too many names and name constraints"),
            Cell("too-long", self.leaf(by=deep), "more than 8 certificates"),
        ]

    def _costly(self) -> Leaf:
        """Names and constraints that a verifier would compare for seconds."""
        trees = dns(*(f"a{number}.example" for number in range(1500)))
        mid = Authority("Mid CA", self.root, extensions=[x509.NameConstraints(trees, None)])
        return self.leaf(*dns(*(f"b{number}.a1.example" for number in range(1500))), by=mid)

    def _cross_signed(self, other: Authority) -> Leaf:
        """Issued by an authority of its own root, whose key the trusted one has certified, too."""
        twin = Authority("Other CA", self.root, key=other.key)
        leaf = self.leaf(by=other)
        leaf.chain.append(twin.certificate)
        return leaf


def _constraints(tree: str) -> x509.NameConstraints:
    return x509.NameConstraints([x509.DNSName(tree)], None)
