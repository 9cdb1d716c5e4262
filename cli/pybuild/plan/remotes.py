"""Addresses in effect: what is fetched for them."""

from pybuild.dockerfile.remotes import Repository
from pybuild.plan.ops import RemoteTree


def tree_of(repository: Repository, *, commit: str = "", keep_git_dir: bool | None = None) -> RemoteTree:
    """Return what a repository's address means, `commit` and `keep_git_dir` being what a flag says; it wins."""
    keep = repository.keep_git_dir if keep_git_dir is None else keep_git_dir
    return RemoteTree(
        address=repository.address,
        scheme=repository.scheme,
        host=repository.host,
        port=repository.port,
        ref=repository.ref,
        subdir=repository.subdir,
        commit=commit or repository.commit,
        keep_git_dir=bool(keep),
        submodules=repository.submodules is not False,
    )
