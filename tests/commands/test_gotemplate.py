from typing import Any

import pytest

from pybuild.commands.gotemplate import TemplateError, parse_template

IMAGE: dict[str, Any] = {
    "Id": "sha256:abc",
    "Size": 12,
    "Tags": ["a:1", "b:2"],
    "Empty": [],
    "Nothing": None,
    "Config": {"Env": ["A=1"], "Labels": {"x.y": "z", "b": "c"}, "On": True, "User": ""},
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "plain"),
        ("{{.Id}}", "sha256:abc"),
        ("{{ .Config.Env }}", "[A=1]"),
        ("{{.Config.Labels}}", "map[b:c x.y:z]"),
        ("{{.Size}} {{.Config.On}}", "12 true"),
        ("{{.Nothing}}", "<no value>"),
        ("{{json .Tags}}", '["a:1","b:2"]'),
        ("{{.Config.Labels | json}}", '{"x.y":"z","b":"c"}'),
        ('{{index .Config.Labels "x.y"}}', "z"),
        ('{{index .Config.Labels "no"}}', "<no value>"),
        ("{{index .Tags 1}}", "b:2"),
        ('{{join .Tags ", "}}', "a:1, b:2"),
        ('{{join .Nothing ","}}', ""),
        ("{{.Id | upper | lower}}", "sha256:abc"),
        ("{{upper .Id}}", "SHA256:ABC"),
        ('{{split .Id ":"}}', "[sha256 abc]"),
        ("{{slice .Id 7}}", "abc"),
        ("{{len .Tags}}", "2"),
        ("{{truncate .Id 3}}", "sha"),
        ('{{printf "%s-%v-%d" .Id .Tags .Size}}', "sha256:abc-[a:1 b:2]-12"),
        ('{{println "a" 1}}', "a 1\n"),
        ("{{range .Tags}}<{{.}}>{{end}}", "<a:1><b:2>"),
        ("{{range $t := .Tags}}{{$t}} {{$.Size}};{{end}}", "a:1 12;b:2 12;"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{if .Config.User}}u{{else}}nobody{{end}}", "nobody"),
        ("{{if eq .Size 1}}one{{else if eq .Size 12 13}}twelve{{else}}other{{end}}", "twelve"),
        ("{{if and .Size (not .Empty)}}yes{{end}}", "yes"),
        ("{{with .Config}}{{.Env}}{{end}}", "[A=1]"),
        ("{{(index .Config.Env 0)}}", "A=1"),
        ("a {{- .Size -}} b", "a12b"),
        ("{{/* note */}}x", "x"),
        ('{{"a\\tb"}}', "a\tb"),
        ("{{`raw\\t`}}", "raw\\t"),
        ("{{$x := .Size}}{{$x}}", "12"),
    ],
)
def test_renders_as_go_does(template: str, text: str) -> None:
    assert parse_template(template).render(IMAGE) == text


@pytest.mark.parametrize(
    ("template", "word"),
    [
        ("{{", "unclosed"),
        ("{{.Id", "unclosed"),
        ("{{}}", "empty action"),
        ("{{.Idd}}", "no such field: .Idd"),
        ("{{.Id.X}}", "no field in what is not an object"),
        ("{{frobnicate .Id}}", "unknown function"),
        ("{{json}}", "wrong number of arguments"),
        ("{{.Id .Size}}", "only a function"),
        ("{{if .Id}}x", "`if` without `end`"),
        ("{{end}}", "without"),
        ("{{else}}", "without"),
        ("{{range .Size}}{{end}}", "cannot go over"),
        ("{{index .Tags 9}}", "cannot take its arguments"),
        ("{{(.Id}}", "unclosed `(`"),
        ("{{.Id | }}", "missing"),
        ("{{$no}}", "undefined variable"),
        ("{{.Id % 2}}", "cannot understand"),
        ('{{printf "%d" .Id}}', "cannot take its arguments"),
    ],
)
def test_what_cannot_be_meant_is_told_in_one_line(template: str, word: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse_template(template).render(IMAGE)
    assert word in caught.value.message
    assert "\n" not in caught.value.message


def test_a_wrong_field_has_a_suggestion() -> None:
    with pytest.raises(TemplateError) as caught:
        parse_template("{{.Sise}}").render(IMAGE)
    assert caught.value.hint == "did you mean `.Size`?"
