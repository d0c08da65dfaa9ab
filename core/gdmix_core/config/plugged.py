"""A fixed effect that is plugged in: its options are checked by the plug-in's own model, as part of the config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    InstanceOf,
    SerializationInfo,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from gdmix_core.errors import GdmixError, NotFound

if TYPE_CHECKING:
    from gdmix_core.fixed_effects.plugin import InputColumn, Task


class PluggedEffect(BaseModel):
    """A global model of a kind that is plugged in.

    In a config, and on the wire, the options stand beside `fixed_effect`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fixed_effect: str
    """Name of the plug-in."""
    options: InstanceOf[BaseModel]
    """As the plug-in's model made them."""

    @model_validator(mode="before")
    @classmethod
    def _checked_options(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        name = value["fixed_effect"]
        given = {key: option for key, option in value.items() if key != "fixed_effect"}
        try:
            from gdmix_core.fixed_effects.registry import load_plugin

            model = load_plugin(name).options
        except NotFound:
            raise _mistake(name, "allowed_names", _allowed_names()) from None
        except GdmixError as error:
            raise _mistake(name, "value_error", str(error)) from error
        try:
            options = model.model_validate(given)
        except ValidationError as error:
            raise _under(name, error) from error
        return {"fixed_effect": name, "options": options}

    @model_serializer
    def _beside(self, info: SerializationInfo) -> dict[str, Any]:
        options = self.options.model_dump(mode=info.mode, exclude_unset=info.exclude_unset)
        return {"fixed_effect": self.fixed_effect, **options}

    @property
    def columns(self) -> tuple[InputColumn, ...]:
        """The data columns that the plug-in reads.

        Raises:
            UsageError: the plug-in breaks the protocol.
            ValueError: it refuses the options.
        """
        from gdmix_core.fixed_effects.registry import columns_of

        return columns_of(self.fixed_effect, self.options)

    @property
    def members(self) -> int:
        """Workers that fit it together."""
        from gdmix_core.fixed_effects.registry import load_plugin

        return load_plugin(self.fixed_effect).members(self.options)

    def check(self, task: str) -> None:
        """Let the plug-in look at the options together with the job's task.

        Raises:
            ValueError: it refuses them, or is trained in a way that jobs do not know.
        """
        from gdmix_core.fixed_effects.registry import find_plugin, load_plugin

        plugin = load_plugin(self.fixed_effect)
        plugin.check(self.options, cast("Task", task))
        if plugin.training == "gradients":
            raise ValueError(
                f"{find_plugin(self.fixed_effect)} is trained by gradients, which jobs do not do yet; allowed are "
                "one_worker and gang"
            )
        if plugin.training != "gang" and plugin.members(self.options) > 1:
            raise ValueError(
                f"asks for {plugin.members(self.options)} workers at once, but is trained by one"
            )


def options_model(name: str, path: tuple[str | int, ...]) -> type[BaseModel]:
    """Return the model of a plug-in's options that has the field at the end of `path`, as far as it can be told."""
    from gdmix_core.fixed_effects.registry import load_plugin

    model: type[BaseModel] = load_plugin(name).options
    for part in path[:-1]:
        field = model.model_fields.get(str(part))
        inner = _model_inside(field.annotation) if field is not None else None
        model = inner or model
    return model


def _model_inside(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_inside(part))), None)


def _allowed_names() -> str:
    from gdmix_core.config.coordinates import OTHER_FIXED_EFFECTS
    from gdmix_core.fixed_effects.registry import installed_plugins

    plugins = ", ".join(name for name in installed_plugins() if name not in OTHER_FIXED_EFFECTS)
    return f"Input should be {', '.join(OTHER_FIXED_EFFECTS)}, or an installed plug-in ({plugins or 'there is none'})"


def _mistake(name: str, kind: str, message: str) -> ValidationError:
    """Return the error of the plug-in's name; pydantic puts it among the others."""
    custom = PydanticCustomError(kind, "{message}", {"message": message})
    return ValidationError.from_exception_data(
        name, [InitErrorDetails(type=custom, loc=(name, "fixed_effect"), input=name)]
    )


def _under(name: str, error: ValidationError) -> ValidationError:
    """Return the errors of a plug-in's options with its name in front of their places, where messages look for it."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(found["type"], "{message}", {"message": found["msg"]}),
            loc=(name, *found["loc"]),
            input=found["input"],
        )
        for found in error.errors(include_url=False)
    ]
    return ValidationError.from_exception_data(name, details)
