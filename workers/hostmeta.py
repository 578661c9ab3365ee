"""`python -m workers.hostmeta --config FILE`: prints the host-meta documents to publish.

For domains whose web server is not fedgate: save each document under the name printed above it.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from coordinator.config import Config
from coordinator.configfile import load
from coordinator.configvalue import ConfigError
from coordinator.exits import ExitCode
from workers.gateway.hostmeta import JSON_PATH, XRD_PATH, InvalidHostMeta
from workers.gateway.publication import JSON_TYPE, XRD_TYPE, Publication
from workers.gateway.resolver import Resolver


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the documents; returns the exit code."""
    parser = argparse.ArgumentParser(prog="fedgate host-meta", description=__doc__)
    parser.add_argument("--config", metavar="FILE", help="configuration file")
    options = parser.parse_args(arguments)
    try:
        config = load(options.config)
        publication = asyncio.run(_published(config))
    except (ConfigError, InvalidHostMeta, ValueError) as exc:
        print(f"fedgate: {exc}", file=sys.stderr)
        return ExitCode.CONFIGURATION
    if publication.warning:
        print(f"fedgate: warning: {publication.warning}", file=sys.stderr)
    print(render(config, publication), end="")
    return ExitCode.OK


async def _published(config: Config) -> Publication:
    publication = Publication(config, Resolver(config.local.upstream_dns))
    await publication.refresh()
    return publication


def render(config: Config, publication: Publication) -> str:
    """Both documents, each under its file name and what the web server must send with it."""
    domains = ", ".join(config.gateway.domains)
    parts = [f"Publish at https://DOMAIN for each of: {domains}\n"]
    for path, content_type, body in (
        (JSON_PATH, JSON_TYPE, publication.json),
        (XRD_PATH, XRD_TYPE, publication.xrd),
    ):
        parts.append(
            f"\n==> {path.removeprefix('/')}"
            f"   (Content-Type: {content_type}; Access-Control-Allow-Origin: *)\n{body.decode()}"
        )
    return "".join(parts)


if __name__ == "__main__":
    sys.exit(main())
