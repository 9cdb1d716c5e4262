"""The route table."""

from aiohttp import web

from pybuild.daemon import absent, buildkit, builds, images, registries, shells, system
from pybuild.daemon.answers import Handler, add_headers, boundary
from pybuild.daemon.happenings import HAPPENINGS, Happenings, events
from pybuild.daemon.state import STATE, State

ABSENT = "commit|exec|swarm|nodes|services|tasks|secrets|configs|plugins"

# Each also with a version in front, as in /v1.45/build. Order counts: a name may hold slashes.
DOCKER: list[tuple[str, str, Handler]] = [
    ("GET", "/_ping", system.ping),
    ("HEAD", "/_ping", system.ping),
    ("GET", "/version", system.version),
    ("GET", "/info", system.info),
    ("POST", "/build", builds.build),
    ("POST", "/build/prune", images.prune_cache),
    ("POST", "/grpc", buildkit.grpc),
    ("POST", "/session", buildkit.session),
    ("GET", "/images/json", images.list_),
    ("GET", "/images/search", absent.search),
    ("GET", "/images/get", images.save),
    ("POST", "/images/load", images.load),
    ("POST", "/images/create", images.create),
    ("POST", "/images/prune", images.prune),
    ("GET", r"/images/{name:[\s\S]+}/json", images.inspect),
    ("GET", r"/images/{name:[\s\S]+}/history", images.history),
    ("GET", r"/images/{name:[\s\S]+}/get", images.save),
    ("POST", r"/images/{name:[\s\S]+}/tag", images.tag),
    ("POST", r"/images/{name:[\s\S]+}/push", registries.docker_push),
    ("DELETE", r"/images/{name:[\s\S]+}", images.remove),
    ("GET", "/system/df", images.df),
    ("POST", "/auth", registries.docker_auth),
    ("GET", r"/distribution/{name:[\s\S]+}/json", registries.docker_distribution),
    ("GET", "/events", events),
    ("GET", "/containers/json", absent.no_containers),
    ("GET", "/networks", absent.no_containers),
    ("GET", "/plugins", absent.no_containers),
    ("GET", "/volumes", absent.no_volumes),
    ("POST", "/{kind:containers|networks|volumes}/prune", absent.nothing_pruned),
    ("POST", "/containers/create", absent.create_container),
    ("POST", "/{kind:networks|volumes}/create", absent.absent),
    ("*", r"/{kind:containers|networks|volumes}/{rest:[\s\S]+}", absent.no_such),
    ("*", f"/{{kind:{ABSENT}}}", absent.absent),
    ("*", rf"/{{kind:{ABSENT}}}/{{rest:[\s\S]*}}", absent.absent),
]

OURS: list[tuple[str, str, Handler]] = [
    ("GET", "/pybuild/v1/openapi.json", system.openapi),
    ("GET", "/pybuild/v1/status", system.status),
    ("POST", "/pybuild/v1/stop", system.stop),
    ("POST", "/pybuild/v1/load", images.load_ours),
    ("POST", "/pybuild/v1/import", images.import_ours),
    ("GET", "/pybuild/v1/export", images.export),
    ("GET", "/pybuild/v1/inputs", images.inputs),
    ("GET", "/pybuild/v1/compare", images.compare),
    ("GET", "/pybuild/v1/layers", images.layers),
    ("POST", "/pybuild/v1/files", images.files),
    ("POST", "/pybuild/v1/prune", images.prune_ours),
    ("GET", "/pybuild/v1/df", images.df_ours),
    ("GET", "/pybuild/v1/builds", images.builds),
    ("GET", "/pybuild/v1/explain", images.explain),
    ("POST", "/pybuild/v1/pull", registries.pull),
    ("POST", "/pybuild/v1/push", registries.push),
    ("POST", "/pybuild/v1/manifests", registries.manifests),
    ("POST", "/pybuild/v1/shell", shells.shell),
    ("POST", "/pybuild/v1/attach", shells.attach),
    ("POST", "/pybuild/v1/decide", shells.decide),
]


def make_app(state: State) -> web.Application:
    """Return the application that serves `state`."""
    app = web.Application(middlewares=[boundary])
    app[STATE] = state
    app[HAPPENINGS] = Happenings()
    app[buildkit.BUILDKIT] = buildkit.Buildkit(app)
    app.on_shutdown.append(app[buildkit.BUILDKIT].close)
    for method, path, handler in DOCKER:
        app.router.add_route(method, path, handler)
        app.router.add_route(method, r"/v{api:\d+\.\d+}" + path, handler)
    for method, path, handler in OURS:
        app.router.add_route(method, path, handler)
    app.on_response_prepare.append(add_headers)
    return app
