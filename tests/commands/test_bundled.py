"""What is bundled, as the commands read it of a small bundle."""

import json
from pathlib import Path
from zipfile import ZipFile

import pytest

from pybuild.commands import bundled
from pybuild.errors import PybuildError, UsageError


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    rows = [{"name": "Small", "versionInfo": "1", "licenseDeclared": "MIT"}]
    (tmp_path / "sbom.spdx.json").write_text(json.dumps({"packages": rows}))
    with ZipFile(tmp_path / "licences.zip", "w") as texts:
        texts.writestr("Small/LICENSE", "As you like.")
        texts.writestr("Small/NOTICE", b"Of Andr\xe9")
        texts.writestr("Smaller/LICENSE", "No.")
    return tmp_path


def test_gives_the_texts_of_a_name_in_any_letters(bundle: Path) -> None:
    assert bundled.components(bundle) == [("Small", "1", "MIT")]
    assert list(bundled.texts(["small"], bundle)) == [("Small: LICENSE", "As you like."), ("Small: NOTICE", "Of Andr�")]


def test_a_name_that_is_not_bundled_is_a_mistake(bundle: Path) -> None:
    with pytest.raises(UsageError, match="nothing that is bundled is called Large"):
        list(bundled.texts(["Small", "Large"], bundle))


def test_what_is_not_frozen_bundles_nothing() -> None:
    with pytest.raises(PybuildError, match="bundles nothing"):
        bundled.components()
