"""Who may speak for a gateway domain on the local legs. Loopback is no authentication."""

import logging
import time
from collections.abc import Sequence

from cryptography import x509

from coordinator import pins
from coordinator.config import Config
from workers.gateway.identity import CertificateRejected, TrustProblem, TrustSources, verify_peer

log = logging.getLogger(__name__)


class LocalTrust:
    """Recognises the local server by its pinned key, or by a certificate that verifies."""

    def __init__(self, config: Config, authorities: TrustSources) -> None:
        self._config = config
        self._authorities = authorities
        self._pins: pins.Pins = {}
        self.reload()

    def reload(self) -> None:
        """Read the pins again. Raises `PinsUnreadable`."""
        self._pins = pins.load(self._config.gateway.state_dir)

    def why_not(self, domain: str, chain: Sequence[x509.Certificate]) -> str:
        """The reason why this chain does not speak for our `domain`; "" if it does."""
        if self._config.local.authenticate == "none":
            return ""
        if not chain:
            return "no certificate was presented"
        if pins.is_pinned(self._pins, domain, chain[0]):
            return ""
        try:
            trust = self._authorities.for_own_domains()
            verify_peer(chain, trust, time.time(), domain=domain)
        except CertificateRejected as exc:
            known = "not the pinned one" if domain in self._pins else "not pinned"
            return f"its key is {known} and its certificate does not verify: {exc.reason}"
        except TrustProblem as exc:
            log.error("%s", exc)
            return "certificates cannot be verified at the moment"
        return ""
