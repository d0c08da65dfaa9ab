"""Feature columns of a job config: how one data column becomes entries of a sparse vector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

FeatureKind = Literal["auto", "numeric", "categorical", "list", "text", "vector", "name_term_value"]

_OPTIONS_OF_KIND: dict[str, frozenset[str]] = {
    "auto": frozenset({"names"}),
    "numeric": frozenset({"scale"}),
    "categorical": frozenset({"min_df"}),
    "list": frozenset({"separator", "min_df"}),
    "text": frozenset({"weighting", "min_df"}),
    "vector": frozenset({"dimension", "names"}),
    "name_term_value": frozenset({"min_df"}),
}


class FeatureColumn(BaseModel):
    """One column of a feature bag; a bare name in the config means `{column: name, kind: auto}`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    column: Annotated[str, Field(min_length=1)]
    """Column of the data."""
    kind: FeatureKind = "auto"
    """`auto` goes by the column's type: numbers numeric, strings and booleans categorical, lists list, ..."""
    scale: Literal["none", "standard"] = "none"
    """numeric: `standard` makes l2 act on the coefficient of the column divided by its standard deviation."""
    separator: Annotated[str, Field(min_length=1)] | None = None
    """list: splits a string column, for CSV files."""
    weighting: Literal["count", "tfidf"] = "count"
    """text: what a token's value is."""
    min_df: Annotated[int, Field(strict=True, ge=1)] = 1
    """categorical, list, text, name_term_value: terms in fewer training rows than this are left out."""
    dimension: Annotated[int, Field(strict=True, ge=1, le=2**31 - 2)] | None = None
    """vector: its length; required for sparse vectors, read off the data for dense ones and named ones."""
    names: Annotated[str, Field(min_length=1)] | None = None
    """vector: file with the name of each position, one `name,term` a line; models show and export them."""
    source: Annotated[str, Field(min_length=1)] | None = None
    """Which of `data.sources` holds the column; the first that has it, `data` before all, when absent."""

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _options_fit_the_kind(self) -> FeatureColumn:
        fields = type(self).model_fields
        # Compared with the defaults, not with what was set: the canonical form on the wire sets every field.
        changed = {name for name in fields if getattr(self, name) != fields[name].default}
        stray = sorted(changed - {"column", "kind", "source"} - _OPTIONS_OF_KIND[self.kind])
        if stray:
            allowed = ", ".join(sorted(_OPTIONS_OF_KIND[self.kind])) or "none"
            raise ValueError(f"{', '.join(stray)} means nothing for kind {self.kind}; its options: {allowed}")
        return self


def columns_of_bags(features: Mapping[str, tuple[FeatureColumn, ...]], bags: Iterable[str]) -> list[str]:
    """Return `<bag>.<column>` for every column of `bags`, in order."""
    return [f"{bag}.{column.column}" for bag in bags for column in features[bag]]
