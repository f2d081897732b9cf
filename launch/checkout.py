"""The code of a launch: a commit, and with --ship_diff what the working tree adds to it."""

import base64
import dataclasses
import gzip
import hashlib
import os
import pathlib
import shlex
import shutil
import subprocess
import tempfile

from training.config import ConfigError

MOST_DIFF = (
    64_000  # bytes of base64 in a script for another machine; an argument of a program has 128 KiB
)


@dataclasses.dataclass(frozen=True)
class Code:
    """The code that a launch runs.

    Attributes:
      commit: the full hash.
      diff: a binary patch of the commit; b'' for a clean tree.
      repository: where other machines clone from; '' if none does.
    """

    commit: str
    diff: bytes = b""
    repository: str = ""

    @property
    def name(self) -> str:
        """Short name of the commit and the diff."""
        return self.commit[:12] + (f"-{self._sha256[:8]}" if self.diff else "")

    @property
    def _sha256(self):
        return hashlib.sha256(self.diff).hexdigest()

    def record(self) -> dict:
        """What launch.json says about it."""
        diff = {"file": "ship.diff", "sha256": self._sha256, "bytes": len(self.diff)}
        return {
            "commit": self.commit,
            "diff": diff if self.diff else None,
            "repository": self.repository,
        }

    def folder(self, launch: pathlib.Path) -> pathlib.Path:
        """The checkout of a launch on this machine or its shared disk. A later launch of other code has
        another, so that a run that waits keeps its code."""
        return launch / f"code-{self.name}"

    def check_out(self, root: pathlib.Path, launch: pathlib.Path) -> None:
        """Makes `folder` from the checkout `root`; idle if it exists."""
        folder = self.folder(launch)
        if folder.exists():
            return
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        git(launch, "clone", "--quiet", "--no-checkout", "--no-tags", str(root), str(part))
        git(part, "checkout", "--quiet", "--detach", self.commit)
        if self.diff:
            git(part, "apply", "--index", "--whitespace=nowarn", "-", given=self.diff)
        part.rename(folder)

    def lines(self, folder: str) -> list[str]:
        """Shell lines that make the checkout `folder` on another machine."""
        lines = [
            f"rm -rf {folder}",
            f"git clone --quiet --no-checkout {shlex.quote(self.repository)} {folder}",
            f"git -C {folder} checkout --quiet --detach {self.commit}",
        ]
        if self.diff:
            text = base64.encodebytes(gzip.compress(self.diff, mtime=0)).decode()
            if len(text) > MOST_DIFF:
                raise ConfigError(
                    f"--ship_diff: the diff has {len(self.diff):,} bytes, too many for a script: commit the "
                    f"changes and push them"
                )
            lines += [
                f"base64 --decode <<'DIFF' | gzip --decompress | git -C {folder} apply --index -",
                text + "DIFF",
            ]
        return lines


def read(root: pathlib.Path, ship_diff: bool) -> Code:
    """The code of the checkout `root`. Raises ConfigError if it has changes that are not to be shipped."""
    try:
        commit = git(root, "rev-parse", "HEAD").strip()
    except ConfigError as error:
        raise ConfigError(
            f"{root} is not a checkout with a commit, and a launch names the commit that it runs ({error}); "
            f"clone the repository, or git init and commit"
        ) from error
    changed = [line[3:] for line in git(root, "status", "--porcelain").splitlines()]
    if not changed:
        return Code(commit)
    if not ship_diff:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ConfigError(
            f"the working tree has changes that no commit has ({', '.join(changed[:3])[:120]}{more}): commit "
            f"them, or ship them with --ship_diff"
        )
    with tempfile.TemporaryDirectory() as temporary:
        index = {"GIT_INDEX_FILE": f"{temporary}/index"}  # new files belong to the diff too
        git(root, "read-tree", "HEAD", environment=index)
        git(root, "add", "--all", environment=index)
        diff = git(root, "diff", "--cached", "--binary", "HEAD", environment=index, text=False)
    return Code(commit, diff)


def published(code: Code, root: pathlib.Path, repository: str) -> Code:
    """`code` with the repository that other machines clone. Raises ConfigError if they cannot have it."""
    if repository:
        return dataclasses.replace(code, repository=repository)
    try:
        repository = git(root, "remote", "get-url", "origin").strip()
    except ConfigError:
        raise ConfigError(
            f"{root} has no remote `origin`, from which other machines could clone the code: add one and "
            f"push, or set --repository=URL"
        ) from None
    if not git(root, "branch", "--remotes", "--contains", code.commit).strip():
        raise ConfigError(
            f"no branch of {repository} has the commit {code.commit[:12]}, as far as this checkout knows: "
            f"push it, or set --repository=URL of one that has it"
        )
    return dataclasses.replace(code, repository=repository)


def git(folder, *arguments, environment=None, given=None, text=True):
    """Standard output of git in a folder. Raises ConfigError with git's line if it fails."""
    try:
        done = subprocess.run(
            ("git", *arguments), cwd=folder, input=given, capture_output=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(f"git cannot run ({error.strerror}): install it") from error
    if done.returncode:
        line = " ".join(done.stderr.decode(errors="replace").split())[:200]
        raise ConfigError(f"git {arguments[0]} in {folder} failed: {line}")
    return done.stdout.decode() if text else done.stdout
