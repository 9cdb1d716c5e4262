"""What plugins may use of pybuild: all that is named here, and nothing else.

The names follow semantic versions: what is here keeps its meaning until the next major version, so a plugin asks for
`pybuild>=0.1,<1` in its requirements. Each is imported when it is first used, so a command that prints a line starts as
quickly as one of ours.

How to write one: plugins/README.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pybuild.api.artifacts import Artifact, ArtifactFile
    from pybuild.api.events import Checked, Event, Failed, Failure, Finding, Moved, Notice, Pushed, Transfer
    from pybuild.context.effects import Effect
    from pybuild.context.errors import ContextError, IgnoreError
    from pybuild.context.survey import Seen, Survey
    from pybuild.dockerfile import instructions
    from pybuild.dockerfile.errors import DockerfileError
    from pybuild.dockerfile.parse import Dockerfile, Stage
    from pybuild.errors import CancelledError, ConflictError, ExitCode, NotFoundError, PybuildError, UsageError
    from pybuild.plugin.checking import build_check_rules, check_dockerfile
    from pybuild.plugin.context import Context, IgnoreLine, Uses, ignore_pattern, open_context, read_ignore_file
    from pybuild.plugin.dockerfiles import parse_dockerfile, read_dockerfile
    from pybuild.plugin.events import exit_code_of, show_events
    from pybuild.plugin.exporting import ExportedImage
    from pybuild.plugin.findings import FORMATS, LintRule, findings_report
    from pybuild.plugin.found import API_VERSION, VERSION
    from pybuild.plugin.linting import has_linters, run_linters
    from pybuild.plugin.option import Argument, Commands, InsecureRegistries, Option, ProgressKind
    from pybuild.plugin.output import as_json, bar, new_file, progress, table, write_line
    from pybuild.plugin.registries import fetch_artifact, list_artifacts, push_artifact, push_images
    from pybuild.plugin.settings import plugin_settings
    from pybuild.plugin.stored import (
        ImageLayer,
        ImageLayers,
        ImageTree,
        LayerEntry,
        build_record,
        image_layers,
        image_tree,
        images,
        inspect_image,
        read_image_files,
    )
    from pybuild.progress.amounts import human_bytes
    from pybuild.progress.escape import escape, one_line

_PLACES = {
    "pybuild.errors": ("CancelledError", "ConflictError", "ExitCode", "NotFoundError", "PybuildError", "UsageError"),
    "pybuild.api.artifacts": ("Artifact", "ArtifactFile"),
    "pybuild.api.events": (
        *("Checked", "Event", "Failed", "Failure", "Finding", "Moved", "Notice", "Pushed", "Transfer"),
    ),
    "pybuild.context.effects": ("Effect",),
    "pybuild.context.errors": ("ContextError", "IgnoreError"),
    "pybuild.context.survey": ("Seen", "Survey"),
    "pybuild.dockerfile.errors": ("DockerfileError",),
    "pybuild.dockerfile.parse": ("Dockerfile", "Stage"),
    "pybuild.plugin.context": ("Context", "IgnoreLine", "Uses", "ignore_pattern", "open_context", "read_ignore_file"),
    "pybuild.plugin.events": ("exit_code_of", "show_events"),
    "pybuild.plugin.exporting": ("ExportedImage",),
    "pybuild.plugin.findings": ("FORMATS", "LintRule", "findings_report"),
    "pybuild.plugin.checking": ("build_check_rules", "check_dockerfile"),
    "pybuild.plugin.dockerfiles": ("parse_dockerfile", "read_dockerfile"),
    "pybuild.plugin.found": ("API_VERSION", "VERSION"),
    "pybuild.plugin.stored": (
        "ImageLayer",
        "ImageLayers",
        "ImageTree",
        "LayerEntry",
        "build_record",
        "image_layers",
        "image_tree",
        "images",
        "inspect_image",
        "read_image_files",
    ),
    "pybuild.plugin.linting": ("has_linters", "run_linters"),
    "pybuild.plugin.option": ("Argument", "Commands", "InsecureRegistries", "Option", "ProgressKind"),
    "pybuild.plugin.output": ("as_json", "bar", "new_file", "progress", "table", "write_line"),
    "pybuild.plugin.registries": ("fetch_artifact", "list_artifacts", "push_artifact", "push_images"),
    "pybuild.plugin.settings": ("plugin_settings",),
    "pybuild.progress.amounts": ("human_bytes",),
    "pybuild.progress.escape": ("escape", "one_line"),
}
_PLACE_OF = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "API_VERSION",
    "FORMATS",
    "VERSION",
    "Argument",
    "Artifact",
    "ArtifactFile",
    "CancelledError",
    "Checked",
    "Commands",
    "ConflictError",
    "Context",
    "ContextError",
    "Dockerfile",
    "DockerfileError",
    "Effect",
    "Event",
    "ExitCode",
    "ExportedImage",
    "Failed",
    "Failure",
    "Finding",
    "IgnoreError",
    "IgnoreLine",
    "ImageLayer",
    "ImageLayers",
    "ImageTree",
    "InsecureRegistries",
    "LayerEntry",
    "LintRule",
    "Moved",
    "NotFoundError",
    "Notice",
    "Option",
    "ProgressKind",
    "Pushed",
    "PybuildError",
    "Seen",
    "Stage",
    "Survey",
    "Transfer",
    "UsageError",
    "Uses",
    "as_json",
    "bar",
    "build_check_rules",
    "build_record",
    "check_dockerfile",
    "escape",
    "exit_code_of",
    "fetch_artifact",
    "findings_report",
    "has_linters",
    "human_bytes",
    "ignore_pattern",
    "image_layers",
    "image_tree",
    "images",
    "inspect_image",
    "instructions",
    "list_artifacts",
    "new_file",
    "one_line",
    "open_context",
    "parse_dockerfile",
    "plugin_settings",
    "progress",
    "push_artifact",
    "push_images",
    "read_dockerfile",
    "read_ignore_file",
    "read_image_files",
    "run_linters",
    "show_events",
    "table",
    "write_line",
]


def __getattr__(name: str) -> Any:
    if name == "instructions":
        return import_module("pybuild.dockerfile.instructions")
    place = _PLACE_OF.get(name)
    if place is None:
        raise AttributeError(f"pybuild.plugin has no {name}")
    value = globals()[name] = getattr(import_module(place), name)
    return value


def __dir__() -> list[str]:
    return __all__
