from pathlib import Path

import pytest

from pybuild.commands.proxies import configured
from pybuild.errors import UsageError


def test_own_settings_win_over_dockers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"proxies": {"default": {"httpProxy": "http://d", "noProxy": "x"}}}')
    environ = {"DOCKER_CONFIG": str(tmp_path)}
    assert configured({}, environ) == {
        "HTTP_PROXY": "http://d",
        "http_proxy": "http://d",
        "NO_PROXY": "x",
        "no_proxy": "x",
    }
    assert configured({"proxy": {"all": "socks5://s"}}, environ) == {
        "ALL_PROXY": "socks5://s",
        "all_proxy": "socks5://s",
    }
    assert configured({"proxy": {}}, environ) == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"proxies": 1}', '{"proxies": {"default": []}}'])
def test_broken_file_of_docker_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert configured({}, {"DOCKER_CONFIG": str(tmp_path)}) == {}


@pytest.mark.parametrize("settings", [{"proxy": "x"}, {"proxy": {"htp": "x"}}, {"proxy": {"http": 1}}])
def test_own_settings_that_cannot_be_meant_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        configured(settings, {})
