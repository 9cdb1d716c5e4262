"""What a daemon tells of itself: ping, version, info, status, stop."""

import os
import platform
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from pybuild import __version__
from pybuild.daemon.answers import API_VERSION, MIN_API_VERSION, boolean
from pybuild.daemon.bridges import in_thread
from pybuild.daemon.state import STATE
from pybuild.errors import ConflictError

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}


async def ping(request: web.Request) -> web.Response:
    """`HEAD` and `GET /_ping`"""
    headers = {
        "Builder-Version": "1",
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Pragma": "no-cache",
        "Swarm": "inactive",
    }
    return web.Response(text="OK", headers=headers)


async def version(request: web.Request) -> web.Response:
    """`GET /version`"""
    machine = os.uname()
    architecture = _ARCHITECTURES.get(machine.machine, machine.machine)
    details = {
        "ApiVersion": API_VERSION,
        "MinAPIVersion": MIN_API_VERSION,
        "Arch": architecture,
        "Os": "linux",
        "KernelVersion": machine.release,
        "GitCommit": "",
        "GoVersion": "",
        "BuildTime": "",
        "Experimental": "false",
    }
    common = {key: value for key, value in details.items() if key != "Experimental"}
    return web.json_response(
        {
            "Platform": {"Name": "pybuild"},
            "Components": [{"Name": "Engine", "Version": __version__, "Details": details}],
            "Version": __version__,
            **common,
        }
    )


async def info(request: web.Request) -> web.Response:
    """`GET /info`"""
    state, machine = request.app[STATE], os.uname()
    images = (await state.engine()).images
    count = len(await in_thread(lambda: images.list(all=True)))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    nothing: dict[str, Any] = {"Containers": 0, "ContainersRunning": 0, "ContainersPaused": 0, "ContainersStopped": 0}
    return web.json_response(
        {
            "ID": "pybuild",
            "Name": machine.nodename,
            "Images": count,
            **nothing,
            "Driver": "overlay2",
            "DriverStatus": [["Store", str(state.store_root)]],
            "OSType": "linux",
            "OperatingSystem": platform.freedesktop_os_release().get("PRETTY_NAME", "Linux") if _has_release() else "",
            "Architecture": machine.machine,
            "KernelVersion": machine.release,
            "NCPU": os.cpu_count() or 1,
            "MemTotal": memory,
            "ServerVersion": __version__,
            "DockerRootDir": str(state.store_root),
            "CgroupDriver": "none",
            "CgroupVersion": "2",
            "ExperimentalBuild": False,
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": {"InsecureRegistryCIDRs": [], "IndexConfigs": {}, "Mirrors": []},
            "Plugins": {"Volume": [], "Network": [], "Authorization": None, "Log": []},
            "SecurityOptions": ["name=rootless"],
            "Swarm": {"LocalNodeState": "inactive"},
            "Runtimes": {},
            "DefaultRuntime": "",
            "Warnings": None,
            "SystemTime": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        }
    )


def _has_release() -> bool:
    return os.path.exists("/etc/os-release") or os.path.exists("/usr/lib/os-release")


async def openapi(request: web.Request) -> web.Response:
    """`GET /pybuild/v1/openapi.json`: the description of all routes, which lies beside this file"""
    from importlib.resources import files

    text = await in_thread(lambda: files("pybuild.daemon").joinpath("openapi.json").read_text("utf-8"))
    return web.Response(text=text, content_type="application/json")


async def status(request: web.Request) -> web.Response:
    """`GET /pybuild/v1/status`"""
    return web.json_response(request.app[STATE].status())


async def stop(request: web.Request) -> web.Response:
    """`POST /pybuild/v1/stop?if_idle=&now=`: end soon; builds get their grace, or none with `now`"""
    state = request.app[STATE]
    if boolean(request.query, "if_idle") and state.builds:
        raise ConflictError(f"the daemon is busy with {len(state.builds)} builds")
    state.stop(now=boolean(request.query, "now"))
    return web.json_response({}, status=202)
