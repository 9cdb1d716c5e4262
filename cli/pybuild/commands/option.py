"""What annotates the parameters of commands: the same as those of plugins have."""

from pybuild.plugin.option import Argument as Argument
from pybuild.plugin.option import InsecureRegistries as InsecureRegistries
from pybuild.plugin.option import Option as Option
from pybuild.plugin.option import ProgressKind as ProgressKind
