"""What a Docker daemon has and pybuild has not: containers, networks, volumes, swarm. Clients print the sentence.

Lists are empty, which is true, and what removes everything removes nothing, so that `docker system prune` and
`docker system df` work. A container is never there. All else is 501 with what to use.
"""

from typing import Any

from aiohttp import web

from pybuild.errors import NotFoundError, PybuildError

SENTENCE = "pybuild builds images and does not run containers"


class AbsentError(PybuildError):
    """Something of Docker's that pybuild has not."""

    http_status = 501


async def no_containers(request: web.Request) -> web.Response:
    """`GET /containers/json`, and other lists of what there is none of"""
    return web.json_response([])


async def no_volumes(request: web.Request) -> web.Response:
    """`GET /volumes`"""
    return web.json_response({"Volumes": [], "Warnings": None})


_PRUNED: dict[str, dict[str, Any]] = {
    "containers": {"ContainersDeleted": None, "SpaceReclaimed": 0},
    "networks": {"NetworksDeleted": None},
    "volumes": {"VolumesDeleted": None, "SpaceReclaimed": 0},
}


async def nothing_pruned(request: web.Request) -> web.Response:
    """`POST /containers/prune`, `/networks/prune`, `/volumes/prune`"""
    return web.json_response(_PRUNED[request.match_info["kind"]])


async def create_container(request: web.Request) -> web.Response:
    """`POST /containers/create`; buildx asks for one when its driver is docker-container"""
    if request.query.get("name", "").startswith("buildx_buildkit"):
        raise AbsentError(
            f"{SENTENCE}, that of BuildKit neither: build with the driver docker (`docker buildx use default`)"
        )
    raise AbsentError(f"{SENTENCE}: run this image with podman, or with docker elsewhere")


async def no_such(request: web.Request) -> web.Response:
    """Any method on one container, network or volume"""
    kind = request.match_info["kind"].removesuffix("s")
    name = request.match_info["rest"].partition("/")[0]
    # These words are looked for: `docker inspect` asks for a container first, then for an image
    raise NotFoundError(f"No such container: {name}" if kind == "container" else f"no such {kind}: {name}")


async def absent(request: web.Request) -> web.Response:
    """Any route of containers, networks, volumes or swarm that is none of those above"""
    kind = request.match_info["kind"]
    if kind == "commit":
        raise AbsentError(f"{SENTENCE}: there is no container to make an image of")
    if kind in ("swarm", "nodes", "services", "tasks", "secrets", "configs"):
        raise AbsentError(f"{SENTENCE}: it is no node of a swarm")
    if kind == "plugins":
        if request.method == "GET":
            # `docker inspect` asks for one last of all
            raise NotFoundError(f"no such plugin: {request.match_info['rest'].partition('/')[0]}")
        raise AbsentError("pybuild has no plugins of Docker's: see `pybuild plugin`")
    raise AbsentError(SENTENCE)


async def search(request: web.Request) -> web.Response:
    """`GET /images/search`: only the index of Docker Hub can be searched, and it is no registry"""
    raise AbsentError("pybuild searches no index of images: look at https://hub.docker.com")
