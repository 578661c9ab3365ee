"""Files that servers running under their own accounts can read and write."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from OpenSSL import crypto


def give_to(user: str, paths: Sequence[Path]) -> None:
    """Make the account the owner of files and whole directories, when we are root."""
    if os.geteuid() != 0:
        return
    for path in paths:
        for each in [path, *path.rglob("*")] if path.is_dir() else [path]:
            if not each.is_symlink():
                shutil.chown(each, user, user)


def make_trust_directory(directory: Path, bundle: Path) -> None:
    """Make a directory of one authority that OpenSSL accepts as `capath`."""
    directory.mkdir()
    target = directory / "ca.pem"
    shutil.copyfile(bundle, target)
    certificate = crypto.load_certificate(crypto.FILETYPE_PEM, target.read_bytes())
    (directory / f"{certificate.subject_name_hash():08x}.0").symlink_to("ca.pem")
