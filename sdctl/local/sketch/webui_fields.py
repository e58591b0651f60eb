"""Reading request bodies as the SD WebUI's request models do: types, defaults and the shape of errors.

Field names, types and defaults as `/openapi.json` of AUTOMATIC1111 1.10.1 lists them; the messages are
pydantic 1's. https://github.com/AUTOMATIC1111/stable-diffusion-webui/tree/v1.10.1/modules/api
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_SIDE = 4096


class RefusedError(Exception):
    """A request that is answered with an error status and a JSON body."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = body


def http_exception(status: int, detail: str) -> RefusedError:
    """Make the answer to an error that A1111 raises on purpose."""
    return RefusedError(status, {"error": "HTTPException", "detail": detail, "body": "", "errors": ""})


def failure(kind: str, text: str) -> RefusedError:
    """Make the answer to an exception that A1111 does not catch: 500 with its class and text."""
    return RefusedError(500, {"error": kind, "detail": "", "body": "", "errors": text})


def unprocessable(*problems: dict[str, Any]) -> RefusedError:
    """Make the answer to a body that does not fit the request model."""
    return RefusedError(422, {"detail": list(problems)})


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a request model; `kind` is int, float, str, bool, list, dict or any."""

    kind: str
    default: Any = None
    optional: bool = False
    required: bool = False
    low: int | None = None
    high: int | None = None


def _model(**fields: Any) -> dict[str, Field]:
    """Build a model: a value is a default, a kind of an optional field in angle brackets, or a Field."""
    model = {}
    for name, value in fields.items():
        if isinstance(value, Field):
            model[name] = value
        elif isinstance(value, str) and value.startswith("<"):
            model[name] = Field(value.strip("<>"), optional=True)
        else:
            model[name] = Field(type(value).__name__, value)
    return model


_SIDE = Field("int", 512, high=MAX_SIDE)
_PROCESSING = _model(
    prompt="", negative_prompt="", styles="<list>", seed=-1, subseed=-1, subseed_strength=0.0,
    seed_resize_from_h=-1, seed_resize_from_w=-1, sampler_name="<str>", scheduler="<str>",
    batch_size=1, n_iter=1, steps=Field("int", 50, high=10_000), cfg_scale=7.0, width=_SIDE, height=_SIDE,
    restore_faces="<bool>",
    tiling="<bool>", do_not_save_samples=False, do_not_save_grid=False, eta="<float>",
    denoising_strength="<float>", s_min_uncond="<float>", s_churn="<float>", s_tmax="<float>",
    s_tmin="<float>", s_noise="<float>", override_settings="<dict>",
    override_settings_restore_afterwards=True, refiner_checkpoint="<str>", refiner_switch_at="<float>",
    disable_extra_networks=False, firstpass_image="<str>", comments="<dict>",
)  # fmt: skip
_CALL = _model(
    force_task_id="<str>", sampler_index="Euler", script_name="<str>", script_args=[], send_images=True,
    save_images=False, alwayson_scripts={}, infotext="<str>",
)  # fmt: skip
TXT2IMG = {
    **_PROCESSING,
    **_model(
        enable_hr=False, firstphase_width=0, firstphase_height=0, hr_scale=2.0, hr_upscaler="<str>",
        hr_second_pass_steps=0, hr_resize_x=0, hr_resize_y=0, hr_checkpoint_name="<str>",
        hr_sampler_name="<str>", hr_scheduler="<str>", hr_prompt="", hr_negative_prompt="",
    ),
    **_CALL,
}  # fmt: skip
IMG2IMG = {
    **_PROCESSING,
    "denoising_strength": Field("float", 0.75, optional=True),
    **_model(
        init_images="<list>", resize_mode=0, image_cfg_scale="<float>", mask="<str>", mask_blur_x=4,
        mask_blur_y=4,
        mask_blur="<int>", mask_round=True, inpainting_fill=0, inpaint_full_res=True,
        inpaint_full_res_padding=0, inpainting_mask_invert=0, initial_noise_multiplier="<float>",
        latent_mask="<str>",
    ),
    **_CALL,
    "include_init_images": Field("bool", False),
}  # fmt: skip
_EXTRAS = _model(
    resize_mode=Field("int", 0, low=0, high=1), show_extras_results=True, gfpgan_visibility=0.0,
    codeformer_visibility=0.0, codeformer_weight=0.0, upscaling_resize=2.0, upscaling_resize_w=512,
    upscaling_resize_h=512, upscaling_crop=True, upscaler_1="None", upscaler_2="None",
    extras_upscaler_2_visibility=0.0, upscale_first=False,
)  # fmt: skip
EXTRA_SINGLE = {**_EXTRAS, **_model(image="")}
EXTRA_BATCH = {**_EXTRAS, "imageList": Field("list", required=True)}
PNG_INFO = {"image": Field("str", required=True)}


def read_json(body: bytes, content_type: str) -> Any:
    """Decode a request body as FastAPI does.

    Raises:
        RefusedError: 422, the body is missing, not JSON, or of another content type.
    """
    if not body:
        raise unprocessable({"loc": ["body"], "msg": "field required", "type": "value_error.missing"})
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise unprocessable(_not_a_dict("body"))
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = {
            "msg": error.msg,
            "doc": error.doc[:1000],
            "pos": error.pos,
            "lineno": error.lineno,
            "colno": error.colno,
        }
        raise unprocessable(
            {"loc": ["body", error.pos], "msg": str(error), "type": "value_error.jsondecode", "ctx": where}
        ) from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # not Unicode, NaN, a number of 5,000 digits, nested too deeply
        raise RefusedError(400, {"detail": "There was an error parsing the body"}) from error


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def read_fields(document: Any, model: Mapping[str, Field]) -> dict[str, Any]:
    """Check a body against a model; unknown fields are ignored, as A1111 does.

    Raises:
        RefusedError: 422 with every problem.
    """
    if not isinstance(document, dict):
        raise unprocessable(_not_a_dict("body"))
    values: dict[str, Any] = {}
    problems: list[dict[str, Any]] = []
    for name, field in model.items():
        if name not in document:
            if field.required:
                problems.append(
                    {"loc": ["body", name], "msg": "field required", "type": "value_error.missing"}
                )
            values[name] = field.default.copy() if isinstance(field.default, (list, dict)) else field.default
            continue
        try:
            values[name] = _value(document[name], field)
        except _FieldError as error:
            problems.append({"loc": ["body", name], **error.problem})
    if problems:
        raise unprocessable(*problems)
    return values


class _FieldError(Exception):
    def __init__(self, message: str, kind: str, **context: Any) -> None:
        super().__init__(message)
        self.problem: dict[str, Any] = {"msg": message, "type": kind}
        if context:
            self.problem["ctx"] = context


def _not_a_dict(*place: str) -> dict[str, Any]:
    return {"loc": list(place), "msg": "value is not a valid dict", "type": "type_error.dict"}


def _value(value: Any, field: Field) -> Any:
    if value is None:
        if field.optional:
            return None
        raise _FieldError("none is not an allowed value", "type_error.none.not_allowed")
    converted = _CONVERTERS[field.kind](value)
    if field.low is not None and converted < field.low:
        message = f"ensure this value is greater than or equal to {field.low}"
        raise _FieldError(message, "value_error.number.not_ge", limit_value=field.low)
    if field.high is not None and converted > field.high:
        message = f"ensure this value is less than or equal to {field.high}"
        raise _FieldError(message, "value_error.number.not_le", limit_value=field.high)
    return converted


def _int(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise _FieldError("value is not a valid integer", "type_error.integer") from error


def _float(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise _FieldError("value is not a valid float", "type_error.float") from error
    if not math.isfinite(number):
        raise _FieldError("value is not a valid float", "type_error.float")
    return number


def _str(value: Any) -> str:
    if isinstance(value, (str, int, float)):
        return str(value)
    raise _FieldError("str type expected", "type_error.str")


def _bool(value: Any) -> bool:
    text = value.lower() if isinstance(value, str) else value
    if isinstance(text, (str, int, float, bool)):
        if text in (True, 1, "1", "true", "on", "yes", "y", "t"):
            return True
        if text in (False, 0, "0", "false", "off", "no", "n", "f"):
            return False
    raise _FieldError("value could not be parsed to a boolean", "type_error.bool")


def _list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    raise _FieldError("value is not a valid list", "type_error.list")


def _dict(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise _FieldError("value is not a valid dict", "type_error.dict")


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "int": _int,
    "float": _float,
    "str": _str,
    "bool": _bool,
    "list": _list,
    "dict": _dict,
}
