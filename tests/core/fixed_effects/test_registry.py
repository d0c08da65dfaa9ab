"""Plug-ins by name: what is found, and what is said of those that cannot be used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from gdmix_core.errors import MissingDependency, NotFound, UsageError
from gdmix_core.fixed_effects import registry
from gdmix_core.fixed_effects.plugin import InputColumn, PluginOptions

Install = Callable[..., None]

SOUND = """
from gdmix_core.fixed_effects.plugin import FixedEffectPlugin, InputColumn, PluginOptions

class Options(PluginOptions):
    column: str = "age"
    dimension: int | None = None
    kind: str = "number"

class Mean(FixedEffectPlugin[Options]):
    options = Options
    def columns(self, options):
        return [InputColumn(options.column, options.kind, options.dimension)]
    def fit(self, options, data, context):
        raise NotImplementedError
    def load(self, directory):
        raise NotImplementedError
"""


def test_a_plugin_is_listed_without_being_imported(install: Install) -> None:
    install("acme-effects", "1.2", {"mean": "acme_mean:Mean"}, acme_mean=SOUND)
    found = registry.installed_plugins()["mean"]
    assert (found.distribution, found.version, found.target) == ("acme-effects", "1.2", "acme_mean:Mean")
    assert "acme_mean" not in sys.modules
    assert registry.foreign_versions() == {"mean": "acme-effects 1.2"}
    plugin = registry.load_plugin("mean")
    assert type(plugin).__name__ == "Mean"
    assert registry.load_plugin("mean") is plugin
    assert [column.name for column in registry.columns_of("mean", plugin.options())] == ["age"]


def test_an_unknown_name_says_which_there_are(install: Install) -> None:
    install("acme-effects", "1.2", {"mean": "acme_mean:Mean"}, acme_mean=SOUND)
    with pytest.raises(
        NotFound, match=r"fixed effect 'median' is not installed; installed plug-ins are .*mean"
    ):
        registry.load_plugin("median")


def test_two_distributions_with_one_name(install: Install) -> None:
    install("acme-effects", "1.2", {"mean": "acme_mean:Mean"}, acme_mean=SOUND)
    install("other", "3", {"mean": "other_mean:Mean"}, other_mean=SOUND)
    with pytest.raises(
        UsageError, match="'mean' is announced by several distributions: acme-effects, other; "
    ):
        registry.load_plugin("mean")


def test_a_module_that_is_not_there_names_the_extra(install: Install) -> None:
    install("acme", "1", {"a": "acme_a:Mean [fast]", "b": "acme_a:Mean"}, acme_a="import does_not_exist")
    with pytest.raises(
        MissingDependency,
        match=r"No module named 'does_not_exist'; install it with: pip install 'acme\[fast\]'",
    ):
        registry.load_plugin("a")
    with pytest.raises(MissingDependency, match=r"plug-in 'b' \(acme 1, acme_a:Mean\) .*'does_not_exist'$"):
        registry.load_plugin("b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("FixedEffectPlugin[Options]", "object"), "is not a subclass of FixedEffectPlugin"),
        (("    def load", "    def loaded"), "does not define load"),
        (("    options = Options", "    options = dict"), "attribute options is <class 'dict'>"),
        (("    options = Options", ""), "attribute options is None"),
        (
            ("    options = Options", "    options = Options\n    training = 'alone'"),
            "attribute training is 'alone'; allowed are one_worker, gang, gradients",
        ),
        (
            ("    options = Options", "    options = Options\n    training = 'gradients'"),
            "with GradientPlugin",
        ),
        (("    options = Options", "    options = Options\n    extra = 1"), "attribute extra is 1"),
        (('column: str = "age"', 'fixed_effect: str = "age"'), "options has a field fixed_effect"),
        (
            ("    def load", "    def __init__(self, x): ...\n    def load"),
            "cannot be made without arguments",
        ),
        (("class Mean", "1 / 0\nclass Mean"), "cannot be imported: ZeroDivisionError: division by zero"),
        (("class Mean", "class Median"), "has no attribute 'Mean'"),
    ],
)
def test_a_broken_contract_names_the_attribute(
    install: Install, change: tuple[str, str], message: str
) -> None:
    assert change[0] in SOUND
    install("acme", "1", {"mean": "acme_mean:Mean"}, acme_mean=SOUND.replace(*change))
    with pytest.raises(UsageError, match=r"plug-in 'mean' \(acme 1, acme_mean:Mean\)") as caught:
        registry.load_plugin("mean")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "image"}, "found kind 'image'; allowed are number, string, strings, vector, sparse"),
        ({"kind": "sparse"}, "a sparse column needs a dimension"),
        ({"dimension": 3}, "found dimension 3 with kind number"),
        ({"kind": "vector", "dimension": 0}, "found dimension 0"),
    ],
)
def test_columns_are_checked(install: Install, options: dict[str, object], message: str) -> None:
    install("acme", "1", {"mean": "acme_mean:Mean"}, acme_mean=SOUND)
    model: type[PluginOptions] = registry.load_plugin("mean").options
    with pytest.raises((UsageError, ValueError), match=message):
        registry.columns_of("mean", model(**options))


def test_a_column_is_read_once(install: Install) -> None:
    twice = SOUND.replace("return [", "return [InputColumn('age', 'number'), ")
    install("acme", "1", {"mean": "acme_mean:Mean"}, acme_mean=twice)
    with pytest.raises(ValueError, match="column 'age' is read 2 times"):
        registry.columns_of("mean", registry.load_plugin("mean").options())
    assert InputColumn("age", "number") == InputColumn("age", "number", None, None)


def test_listing_is_cheap() -> None:
    code = (
        "import sys; from gdmix_core.fixed_effects.registry import installed_plugins; installed_plugins();"
        "print([m for m in ('numpy', 'pyarrow', 'pydantic', 'lightgbm', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
