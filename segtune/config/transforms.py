"""Transforms of albumentations by name: which exist, what they take, and which fit training.

albumentations is imported only if a config names one of its transforms: that takes seconds.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidationError
from pydantic_core import InitErrorDetails

from segtune.errors import first_of, nearest

if TYPE_CHECKING:
    import albumentations
    import numpy as np

# Side of the square on which a transform is tried when a config is read. No parameter is likely to
# be this size, so a transform that makes its own size changes it.
TRIAL_SIDE = 97
# Far apart, so that a mask that is interpolated linearly has labels between them.
TRIAL_LABELS = (60, 200)
# Any label that the masks of the trial do not have.
TRIAL_IGNORE = 120
# A message lists at most this many names.
MAX_LISTED = 12


def albumentations_module() -> ModuleType:
    """Return albumentations, imported without its question to the network for a newer version."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations


def transform_errors() -> tuple[type[Exception], ...]:
    """Return what transforms raise for values or images that do not fit."""
    import cv2

    plain = (ValueError, TypeError, LookupError, ArithmeticError, AssertionError, RuntimeError)
    return (*plain, cv2.error)


def checked_transform(spec: dict[str, Any]) -> dict[str, Any]:
    """Return `spec`, the name of a transform with its parameters, if it can be used in training.

    Raises pydantic's ValidationError, with one error for each wrong name or value.
    """
    problems = dict(_problems(json.dumps(spec, sort_keys=True)))
    if problems:
        raise ValidationError.from_exception_data(
            "transform",
            [
                InitErrorDetails(
                    type="value_error",
                    loc=(key,),
                    input=spec.get(key),
                    ctx={"error": ValueError(text)},
                )
                for key, text in problems.items()
            ],
        )
    return spec


def _not_only_a_name(spec: Any) -> Any:
    if isinstance(spec, str):
        raise ValueError(f"a transform is a name with parameters; write {{name: {spec}}}")
    return spec


ExtraTransform = Annotated[
    dict[str, Any], BeforeValidator(_not_only_a_name), AfterValidator(checked_transform)
]


# A search reads the config of each trial, and the transforms in it are nearly always the same.
@functools.lru_cache(maxsize=256)
def _problems(spec_json: str) -> tuple[tuple[str, str], ...]:
    """Return (parameter, message) for everything that is wrong with a transform.

    If the transform as a whole is wrong, the parameter is `name`: that key has a line in the file.
    """
    spec = json.loads(spec_json)
    if problem := _name_problem(spec):
        return (("name", problem),)
    allowed = transform_parameters(spec["name"])
    unknown = [key for key in spec if key not in allowed and key != "name"]
    if unknown:
        return tuple((key, _unknown_parameter(spec["name"], key)) for key in unknown)
    try:
        with warnings.catch_warnings():
            # Shown when training starts: "use another transform", "this one is slow".
            warnings.simplefilter("ignore")
            transform = build_transform(spec, fill=(1, 2, 3), ignore_index=TRIAL_IGNORE)
    except ValidationError as error:
        return tuple(_parameter_problems(spec["name"], error))
    except transform_errors() as error:
        return (("name", f"{spec['name']}: {_one_line(error)}"),)
    problem = misfit(transform, spec, (TRIAL_SIDE, TRIAL_SIDE))
    return (("name", problem),) if problem else ()


def _name_problem(spec: Mapping[str, Any]) -> str:
    name = spec.get("name")
    if name is None:
        return "must be given: the name of a transform of albumentations, for example GaussNoise"
    names = transform_names()
    if not isinstance(name, str) or name not in names:
        near = nearest(str(name), names)
        by_case = [known for known in names if known.lower() == str(name).lower()]
        near = f"; did you mean '{by_case[0]}'?" if by_case else near
        return (
            f"albumentations {albumentations_module().__version__} has no transform {name!r}{near}"
        )
    return ""


def transform_names() -> list[str]:
    """Return the names of all transforms of albumentations for images."""
    module = albumentations_module()
    bases = (
        module.BasicTransform,
        module.DualTransform,
        module.ImageOnlyTransform,
        module.Transform3D,
    )
    return [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, module.BasicTransform)
        and not issubclass(value, module.Transform3D)
        and value not in bases
    ]


def transform_parameters(name: str) -> dict[str, Any]:
    """Return {parameter: default} of a transform; inspect.Parameter.empty if it has no default."""
    parameters = inspect.signature(getattr(albumentations_module(), name).__init__).parameters
    return {
        key: parameter.default
        for key, parameter in parameters.items()
        if key != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


def _unknown_parameter(name: str, key: str) -> str:
    allowed = list(transform_parameters(name))
    listed = first_of(allowed, MAX_LISTED)
    return f"{name} has no such parameter; allowed is {listed}{nearest(key, allowed)}"


def _parameter_problems(name: str, error: ValidationError) -> Iterator[tuple[str, str]]:
    """Yield (parameter, albumentations' own messages) for each parameter that it refuses."""
    messages: dict[str, list[str]] = {}
    for detail in error.errors():
        key = str(detail["loc"][0]) if detail["loc"] else "name"
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "missing":
            message = f"must be given for {name}"
        elif detail["loc"]:
            message = f"{message}; got {detail['input']!r}"
        else:
            message = f"{name}: {message}"
        messages.setdefault(key, []).append(message)
    for key, texts in messages.items():
        yield key, " | ".join(dict.fromkeys(texts))


def build_transform(
    spec: Mapping[str, Any], fill: tuple[int, int, int], ignore_index: int
) -> albumentations.BasicTransform:
    """Return a transform of albumentations from its name and parameters.

    A transform that leaves borders fills them with the colour `fill` and the label `ignore_index`,
    unless the user has set its `fill` or `fill_mask`. A transform that keeps the labels of what it
    covers, such as CoarseDropout, still keeps them.

    Raises pydantic's ValidationError for a wrong value, or one of `transform_errors()`.
    """
    transform = getattr(albumentations_module(), spec["name"])
    parameters = {key: value for key, value in spec.items() if key != "name"}
    defaults = transform_parameters(spec["name"])
    if defaults.get("fill_mask") is not None:
        parameters.setdefault("fill_mask", ignore_index)
    if "border_mode" in defaults:
        parameters.setdefault("fill", list(fill))
    # Checked here, because albumentations replaces all parameters by their defaults, with a
    # warning, if its own check fails in a way that it does not expect.
    given = {key: value for key, value in defaults.items() if value is not inspect.Parameter.empty}
    given |= {**parameters, "strict": False}
    schema = transform.InitSchema
    schema(**{key: value for key, value in given.items() if key in schema.model_fields})
    return transform(**parameters)


def misfit(
    transform: albumentations.BasicTransform,
    spec: Mapping[str, Any],
    shape: tuple[int, int],
    ignore_index: int = TRIAL_IGNORE,
) -> str:
    """Return why a transform cannot be used on crops of `shape` (h, w); empty if it can.

    It is applied once to a made-up image. It must keep the sizes and the types, and add no label
    except `ignore_index` or the user's `fill_mask`.
    """
    import numpy as np

    name = spec["name"]
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    mask = rng.choice(np.array(TRIAL_LABELS, np.min_scalar_type(ignore_index)), shape)
    probability, transform.p = transform.p, 1.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline = albumentations_module().Compose([transform], seed=0)
            result = pipeline(image=image, mask=mask)
    except transform_errors() as error:
        return f"{name}: cannot be applied to a crop of {shape[0]} x {shape[1]}: {_one_line(error)}"
    finally:
        transform.p = probability
    after = result["image"], result["mask"]
    return (
        _type_problem(name, *after)
        or _shape_problem(name, shape, *after)
        or _label_problem(name, after[1], {*TRIAL_LABELS, ignore_index, spec.get("fill_mask")})
    )


def _type_problem(name: str, image: Any, mask: Any) -> str:
    is_image = getattr(image, "dtype", None) == "uint8" and image.ndim == 3
    if is_image and getattr(mask, "ndim", None) == 2:
        return ""
    return (
        f"{name}: changes the type of the image; it has to stay uint8, because segtune itself "
        "normalises the images on the device: remove this transform"
    )


def _shape_problem(name: str, shape: tuple[int, int], image: np.ndarray, mask: np.ndarray) -> str:
    if image.shape == (*shape, 3) and mask.shape == shape:
        return ""
    before, after = (f"{height} x {width}" for height, width in (shape, image.shape[:2]))
    if shape == image.shape[1::-1]:
        return f"{name}: turns a crop of {before} into {after}; make data.crop a square"
    return (
        f"{name}: turns a crop of {before} into {after}; all crops have the size data.crop: use "
        "data.crop, data.resize, augment.ratio or augment.scales instead"
    )


def _label_problem(name: str, mask: np.ndarray, allowed: set[int | None]) -> str:
    strange = sorted(set(mask.ravel().tolist()) - allowed)
    if not strange:
        return ""
    listed = first_of([str(label) for label in strange], 3)
    return (
        f"{name}: makes the label {listed} in a mask of other labels; "
        "set mask_interpolation to 0 (nearest) if it has that parameter, otherwise remove it"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
