"""Whether a peer's certificate proves a domain, in either role.

A chain to a trusted authority does (PKIX). Where there is none the key may be pinned in the
domain's host-meta (XEP-0487 §2.2), or the domain may publish the certificate itself (POSH, RFC
7711). Both only add ways to be trusted: they refuse nothing, and no certificate that has expired.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from cryptography import x509

from workers.gateway import rejection
from workers.gateway.discovery import Discovery
from workers.gateway.identity import (
    CertificateRejected,
    TrustProblem,
    TrustSources,
    VerifiedNames,
    spki_sha256,
    verify_chain,
)
from workers.gateway.posh import Posh

log = logging.getLogger(__name__)

# Seconds that a peer waits while its domain is asked. What is told later serves its next attempt.
PATIENCE = 5.0


class Proof(NamedTuple):
    """A certificate proves a domain: `by` "PKIX", "pinned key" or "POSH", until `not_after`."""

    by: str
    not_after: float  # POSIX time
    names: VerifiedNames | None = None
    """What the chain proves; None without one."""


class Judge:
    """One per worker. Domains are normalised in every call."""

    def __init__(self, authorities: TrustSources, discovery: Discovery) -> None:
        self._authorities = authorities
        self._discovery = discovery
        self._posh = Posh(discovery.fetcher)

    def judge(
        self,
        chain: Sequence[x509.Certificate],
        domain: str,
        *,
        hosts: Collection[str] = (),
        pins: Collection[str] = (),
    ) -> Proof:
        """By what is known now: the chain, leaf first, proves `domain`, or a host it delegated to.

        `hosts` and `pins` were learned over verified HTTPS or from configuration. Raises
        `CertificateRejected`, with the reason why there is no PKIX proof.
        """
        try:
            names = verify_chain(chain, self._authorities.for_domain(domain), time.time())
        except CertificateRejected as exc:
            reason = exc.reason
        except TrustProblem as exc:
            log.error("%s", exc)
            reason = "certificates cannot be verified at the moment"
        else:
            if names.covers(domain, hosts):
                return Proof("PKIX", names.not_after, names)
            wanted = " or ".join(dict.fromkeys([domain, *sorted(hosts)]))
            reason = f"the certificate is for {names}, not for {wanted}"
        if not may_prove(chain):
            raise CertificateRejected(reason)
        not_after = chain[0].not_valid_after_utc.timestamp()
        if pins and spki_sha256(chain[0]) in pins:
            return Proof("pinned key", not_after)
        if self._posh.matches(domain, chain[0]):
            return Proof("POSH", not_after)
        raise CertificateRejected(reason)

    async def ask(self, chain: Sequence[x509.Certificate], domain: str, *, asker: str) -> Proof:
        """`judge`, if need be after asking the domain what else may prove it.

        `asker`: the address of the stranger who shows the certificate. Only one that could prove
        something makes us ask. Raises `CertificateRejected`.
        """
        try:
            return self.judge(chain, domain)
        except CertificateRejected as exc:
            if not may_prove(chain):
                raise
            refused = exc
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._ask_domain(chain, domain, asker)
        except TimeoutError:
            log.info("%s does not tell in time what else may prove it", domain)
            raise refused from None

    async def _ask_domain(
        self, chain: Sequence[x509.Certificate], domain: str, asker: str
    ) -> Proof:
        found = await self._discovery.find(domain, asker=asker)
        hosts, pins = found.delegated_hosts, found.fresh_pins
        try:
            return self.judge(chain, domain, hosts=hosts, pins=pins)
        except CertificateRejected:
            if not await self.is_published(chain, domain, asker=asker):
                raise
        return self.judge(chain, domain)

    async def is_published(
        self, chain: Sequence[x509.Certificate], domain: str, *, asker: str = ""
    ) -> bool:
        """Whether the domain vouches by POSH for a certificate that was refused.

        Asks it if it is time to. Never raises; takes up to about `discovery.timeout`.
        """
        if not may_prove(chain):
            return False
        await self._posh.learn(domain, asker=asker)
        return self._posh.matches(domain, chain[0])

    async def close(self) -> None:
        """Stop what is under way."""
        await self._posh.close()


def may_prove(chain: Sequence[x509.Certificate]) -> bool:
    """Whether the leaf is in its time and its key strong: else nobody can vouch for it."""
    try:
        return (
            bool(chain)
            and not rejection.time_problem(chain[0], datetime.now(UTC))
            and not rejection.weak_key(chain[0])
        )
    except rejection.MALFORMED:
        return False
