"""The variables of a stage."""

from pybuild.plan.scope import Scope


def test_env_after_arg_hides_it() -> None:
    scope = Scope()
    scope.set_arg("V", "arg")
    scope.set_env("V", "env")
    assert scope.values["V"] == "env"
    assert scope.run_environment() == {"V": "env"}
    assert scope.environment() == ["V=env"]


def test_arg_with_value_after_env_hides_it_for_the_build_only() -> None:
    scope = Scope(["V=env"])
    scope.set_arg("V", "arg")
    assert scope.run_environment() == {"V": "arg"}
    assert scope.environment() == ["V=env"]


def test_bare_arg_does_not_hide_env() -> None:
    scope = Scope(["V=env"])
    scope.set_arg("V", None)
    assert scope.run_environment() == {"V": "env"}
    assert scope.declared() == ["V=env"]


def test_env_keeps_its_place_when_changed() -> None:
    scope = Scope(["A=1", "B=2"])
    scope.set_env("A", "3")
    assert scope.environment() == ["A=3", "B=2"]


def test_declared_args_keep_the_order_of_first_declaration() -> None:
    scope = Scope()
    for name, value in (("B", "1"), ("A", None), ("B", "2")):
        scope.set_arg(name, value)
    assert scope.declared() == ["B=2", "A="]


def test_copy_is_independent() -> None:
    first = Scope(["A=1"])
    second = first.copy()
    second.set_env("A", "2")
    assert first.environment() == ["A=1"]
