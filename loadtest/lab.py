"""`python -m loadtest.lab DIRECTORY DOMAIN...`: the certificates of compose.yaml, made once.

For each domain `DOMAIN.pem` and `DOMAIN.key`, for the domain itself, its `conference.` and its
`gw.`, from an authority whose certificate is `ca.pem` and whose key nobody keeps. A directory that
has a `ca.pem` stays as it is.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadtest.load.certificates import LoadAuthority
from loadtest.stage.authority import TestAuthority

KEY_MODE = 0o640  # fedgate and the server it stands before share a group


def make(directory: Path, domains: Sequence[str]) -> bool:
    """Write all files; False if they are there. Raises OSError."""
    if (directory / "trust.pem").exists():
        return False
    load = LoadAuthority(directory / "load")
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        authority = TestAuthority(Path(scratch), "fedgate lab")
        for domain in domains:
            pair = authority.issue(domain, f"conference.{domain}", f"gw.{domain}")
            pair.key.chmod(KEY_MODE)
            os.replace(pair.key, directory / f"{domain}.key")
            os.replace(pair.certificate, directory / f"{domain}.pem")
        trust = Path(scratch) / "trust.pem"
        trust.write_bytes(authority.bundle.read_bytes() + load.bundle.read_bytes())
        # Last: what has it is complete.
        os.replace(trust, directory / "trust.pem")
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when the certificates are there, 1 when they cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.lab", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("domains", metavar="DOMAIN", nargs="+")
    options = parser.parse_args(arguments)
    try:
        made = make(options.directory, options.domains)
    except OSError as exc:
        print(f"cannot write {exc.filename}: {exc.strerror}", file=sys.stderr)
        return 1
    print("certificates made" if made else "certificates are there", "in", options.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
