"""The certificate authorities that the configuration names, each bundle read once."""

from workers.gateway.identity import Trust, load_trust


class TrustBundles:
    """Bundles by the name that the configuration uses: "system" or a path."""

    def __init__(self) -> None:
        self._loaded: dict[str, Trust] = {}

    def get(self, source: str) -> Trust:
        """Raises `TrustProblem`."""
        if source not in self._loaded:
            self._loaded[source] = load_trust(source)
        return self._loaded[source]

    def forget(self) -> None:
        """Read them again when next asked for."""
        self._loaded.clear()
