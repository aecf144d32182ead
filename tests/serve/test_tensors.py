"""Tensors there and back: any datatype and shape round-trips as JSON and binary, and no wrong size gets through."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelyard.contract.errors import InvalidInput, TooLarge
from modelyard.contract.signature import TensorSpec
from modelyard.contract.tensor import NUMPY_TYPES, narrowed, widened
from modelyard.serve.tensors import (
    BINARY_ONLY,
    InputTensor,
    check_rows,
    check_signature,
    read_tensors,
    to_binary,
    to_json,
)

EMPTY = memoryview(b"")
SHAPES = st.lists(st.integers(0, 4), min_size=1, max_size=4)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)


@st.composite
def tensors(draw: st.DrawFn, datatypes: tuple[str, ...] = tuple(NUMPY_TYPES)) -> tuple[str, np.ndarray]:
    """A datatype and an array of it; BYTES of texts, some not UTF-8; BF16 of numbers that BF16 holds."""
    datatype = draw(st.sampled_from(datatypes))
    shape = tuple(draw(SHAPES))
    if datatype == "BYTES":
        count = math.prod(shape)
        values = draw(st.lists(st.one_of(TEXT, st.just(b"\xff\x00")), min_size=count, max_size=count))
        array = np.empty(count, dtype=object)
        array[:] = values
        return datatype, array.reshape(shape)
    if datatype == "BF16":
        return datatype, widened(draw(hnp.arrays(np.uint16, shape)))
    return datatype, draw(hnp.arrays(NUMPY_TYPES[datatype], shape))


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Bit for bit, but for which NaN it is."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype.kind == "O":
        return one.tolist() == other.tolist()
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))


def nested(flat: list[Any], shape: tuple[int, ...]) -> list[Any]:
    if len(shape) == 1:
        return flat
    step = math.prod(shape[1:])
    return [nested(flat[at * step : (at + 1) * step], shape[1:]) for at in range(shape[0])]


def one(tensor: InputTensor, tail: bytes = b"", **options: bool) -> np.ndarray:
    return read_tensors([tensor], memoryview(tail), **options)[tensor.name]


@given(tensors())
def test_any_tensor_round_trips_as_binary(drawn: tuple[str, np.ndarray]) -> None:
    datatype, array = drawn
    data = to_binary(array, datatype)
    if datatype != "BYTES":
        item = 2 if datatype == "BF16" else array.dtype.itemsize
        assert len(data) == array.size * item
    tensor = InputTensor("x", list(array.shape), datatype, parameters={"binary_data_size": len(data)})
    assert same(one(tensor, data), array)


@given(tensors(tuple(set(NUMPY_TYPES) - BINARY_ONLY)), st.booleans())
def test_any_tensor_with_a_json_form_round_trips_as_json(drawn: tuple[str, np.ndarray], is_nested: bool) -> None:
    datatype, array = drawn
    if datatype == "BYTES":
        assume(not any(isinstance(value, bytes) for value in array.reshape(-1)))
    elif array.dtype.kind == "f":
        assume(not np.isinf(array).any())
    flat = to_json(array, datatype, "x")
    data = nested(flat, array.shape) if is_nested else flat
    again = msgspec.json.decode(msgspec.json.encode(InputTensor("x", list(array.shape), datatype, data)))
    assert same(one(InputTensor(**again)), array)


@given(tensors(), st.integers(-9, 9), st.binary(max_size=9))
def test_a_wrong_size_is_refused(drawn: tuple[str, np.ndarray], off: int, more: bytes) -> None:
    datatype, array = drawn
    assume(off != 0)
    data = to_binary(array, datatype)
    size = len(data) + off
    for tail in (data, data[:size] if size >= 0 else b"", data + more):
        if len(tail) == size and datatype == "BYTES":
            continue  # other bytes may be other texts
        tensor = InputTensor("x", list(array.shape), datatype, parameters={"binary_data_size": size})
        with pytest.raises(InvalidInput):
            one(tensor, tail)


@given(tensors(), SHAPES)
def test_a_shape_of_another_size_is_refused(drawn: tuple[str, np.ndarray], shape: list[int]) -> None:
    datatype, array = drawn
    assume(math.prod(shape) != array.size)
    data = to_binary(array, datatype)
    with pytest.raises(InvalidInput):
        one(InputTensor("x", shape, datatype, parameters={"binary_data_size": len(data)}), data)
    if datatype not in BINARY_ONLY:
        with pytest.raises(InvalidInput):
            one(InputTensor("x", shape, datatype, [0] * array.size))


@given(st.lists(tensors(), min_size=2, max_size=5))
def test_several_binary_tensors_keep_apart(drawn: list[tuple[str, np.ndarray]]) -> None:
    parts = [to_binary(array, datatype) for datatype, array in drawn]
    sent = [
        InputTensor(f"t{at}", list(array.shape), datatype, parameters={"binary_data_size": len(part)})
        for at, ((datatype, array), part) in enumerate(zip(drawn, parts, strict=True))
    ]
    arrays = read_tensors(sent, memoryview(b"".join(parts)))
    assert all(same(arrays[f"t{at}"], array) for at, (_, array) in enumerate(drawn))
    assert all(values.flags.aligned for values in arrays.values())


@pytest.mark.parametrize("shape", [[], [-1], [2, -1], [1 << 41], [1] * 9, [1 << 40] * 8])
def test_a_shape_that_no_tensor_has_is_refused(shape: list[int]) -> None:
    for tensor in (InputTensor("x", shape, "FP32", [1.0]), InputTensor("x", shape, "BYTES", ["a"])):
        with pytest.raises(InvalidInput):
            one(tensor)
    with pytest.raises(InvalidInput):
        one(InputTensor("x", shape, "FP32", parameters={"binary_data_size": 4}), bytes(4))


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([2, 2], [[1, 2, 3], [4]]),  # ragged, though it counts four
        ([2, 2], [[1, 2], 3, 4]),
        ([2, 2], [[[1, 2]], [[3, 4]]]),
        ([4, 1], [[1, 2, 3, 4]]),
        ([2, 2, 2], [[1, 2, 3, 4], [5, 6, 7, 8]]),  # nested half-way
        ([2], [[1], [2]]),
        ([1], {"0": 1}),
        ([1], 1),
    ],
)
def test_data_nested_unlike_its_shape_is_refused(shape: list[int], data: Any) -> None:
    with pytest.raises(InvalidInput, match="data is"):
        one(InputTensor("x", shape, "INT64", data))


OUTSIDE = {
    "UINT8": (-1, 256),
    "UINT16": (-1, 65536),
    "UINT32": (-1, 2**32),
    "UINT64": (-1, 2**64),
    "INT8": (-129, 128),
    "INT16": (-32769, 32768),
    "INT32": (-(2**31) - 1, 2**31),
    "INT64": (-(2**63) - 1, 2**63),
    "FP32": (1e39, -(2**130)),
    "FP64": (10**400, -(10**309)),
}


@pytest.mark.parametrize(("datatype", "value"), [(name, value) for name, two in OUTSIDE.items() for value in two])
def test_a_number_beyond_its_datatype_is_refused(datatype: str, value: float) -> None:
    with pytest.raises(InvalidInput, match="outside the range"):
        one(InputTensor("x", [2], datatype, [0, value]))


KINDS: dict[str, Any] = {"BOOL": True, "INT": 1, "FP": 1.5, "BYTES": "a", "null": None}
JSON_TYPES = {
    **{name: {"INT"} for name in NUMPY_TYPES if "INT" in name},
    "FP32": {"INT", "FP", "null"},
    "FP64": {"INT", "FP", "null"},
    "BOOL": {"BOOL"},
    "BYTES": {"BYTES"},
}


@pytest.mark.parametrize(("datatype", "kind"), list(itertools.product(JSON_TYPES, KINDS)))
def test_json_values_are_of_their_datatype(datatype: str, kind: str) -> None:
    tensor = InputTensor("x", [1], datatype, [KINDS[kind]])
    if kind in JSON_TYPES[datatype]:
        value = one(tensor).tolist()[0]
        assert math.isnan(value) if kind == "null" else value == KINDS[kind]
    else:
        with pytest.raises(InvalidInput, match=f"not of datatype {datatype}"):
            one(tensor)


def test_of_a_table_a_null_is_missing_and_numbers_keep_their_digits() -> None:
    for datatype in JSON_TYPES:
        assert one(InputTensor("x", [1], datatype, [None]), is_table=True).tolist() == [None]
    assert one(InputTensor("x", [1], "FP32", [0.1]), is_table=True).tolist() == [0.1]
    assert one(InputTensor("x", [1], "FP32", [0.1])).tolist() == [float(np.float32(0.1))]


@pytest.mark.parametrize("datatype", sorted(BINARY_ONLY))
def test_half_numbers_have_no_json_form(datatype: str) -> None:
    with pytest.raises(InvalidInput, match="no JSON form"):
        one(InputTensor("x", [1], datatype, [1.0]))
    with pytest.raises(InvalidInput, match="no JSON form"):
        to_json(np.zeros(1, dtype=NUMPY_TYPES[datatype]), datatype, "output 'x'")


def binary_text(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def test_text_that_is_not_utf8_stays_bytes_except_in_tables() -> None:
    data = binary_text(b"ok", b"\xff\xfe", "é".encode())
    tensor = InputTensor("x", [3], "BYTES", parameters={"binary_data_size": len(data)})
    assert one(tensor, data).tolist() == ["ok", b"\xff\xfe", "é"]
    assert to_binary(one(tensor, data)) == data
    with pytest.raises(InvalidInput, match="not UTF-8"):
        one(tensor, data, is_table=True)
    with pytest.raises(InvalidInput, match="not UTF-8"):
        to_json(one(tensor, data), "BYTES", "output 'x'")


@pytest.mark.parametrize(
    "data", [b"\x01", binary_text(b"ab")[:-1], b"\xff\xff\xff\xff", binary_text(b"a", b"b"), b"", bytes(8)]
)
def test_text_of_a_wrong_length_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        one(InputTensor("x", [1], "BYTES", parameters={"binary_data_size": len(data)}), data)


def test_a_bool_is_0_or_1() -> None:
    tensor = InputTensor("x", [2], "BOOL", parameters={"binary_data_size": 2})
    assert one(tensor, b"\0\1").tolist() == [False, True]
    with pytest.raises(InvalidInput, match="0 or 1"):
        one(tensor, b"\0\2")


@pytest.mark.parametrize(
    "tensor",
    [
        InputTensor("x", [1], "FP32"),
        InputTensor("x", [1], "FP33", [1.0]),
        InputTensor("x", [1], "fp32", [1.0]),
        InputTensor("x", [1], "FP32", [1.0], {"binary_data_size": 4}),
        InputTensor("x", [1], "FP32", parameters={"binary_data_size": "4"}),
        InputTensor("x", [1], "BOOL", parameters={"binary_data_size": True}),
        InputTensor("x", [1], "FP32", parameters={"binary_data_size": -4}),
        InputTensor("x", [1], "FP32", parameters={"binary_data_size": 4.0}),
        InputTensor("x", [1], "FP32", parameters={"shared_memory_region": "secrets"}),
    ],
)
def test_what_is_no_tensor_is_refused(tensor: InputTensor) -> None:
    with pytest.raises(InvalidInput):
        one(tensor, bytes(4) if "binary_data_size" in tensor.parameters else b"")


def test_duplicates_leftovers_and_nothing_are_refused() -> None:
    two = [InputTensor("x", [1], "FP32", [1.0])] * 2
    for sent, tail in ((two, b""), ([], b""), (two[:1], b"more")):
        with pytest.raises(InvalidInput):
            read_tensors(sent, memoryview(tail))


def test_an_error_names_the_input_and_never_a_value() -> None:
    for data in (["secret"], [[["secret"]]], [True]):
        with pytest.raises(InvalidInput) as caught:
            one(InputTensor("age", [1], "INT64", data))
        assert "age" in str(caught.value)
        assert "secret" not in str(caught.value)


@given(st.floats(width=32))
def test_bf16_is_the_nearest(value: float) -> None:
    (bits,) = narrowed(np.array([value], dtype=np.float32))
    (wide,) = widened(np.array([bits], dtype=np.uint16))
    if math.isnan(value):
        assert math.isnan(wide)
        return
    neighbours = widened(np.array([max(bits, 1) - 1, bits, min(bits, 0xFFFE) + 1], dtype=np.uint16))
    gaps = np.abs(neighbours[np.isfinite(neighbours)].astype(np.float64) - value)
    if math.isfinite(wide):
        assert abs(float(wide) - value) == gaps.min()
    else:
        assert abs(value) > 3.38e38  # beyond the largest that BF16 has


SPECS = (TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("scale", "FP32", (-1, 2)))


def fits(ids: tuple[int, ...], scale: tuple[int, ...], datatype: str = "INT64", joins: bool = True) -> int:
    arrays = {"ids": np.zeros(ids, dtype=NUMPY_TYPES[datatype]), "scale": np.zeros(scale, dtype=np.float32)}
    return check_signature(arrays, {"ids": datatype, "scale": "FP32"}, SPECS, "m", joins=joins)


def test_tensors_are_held_to_the_signature() -> None:
    assert fits((3, 7), (3, 2)) == 3
    assert fits((1, 7), (3, 2), joins=False) == 1
    for wrong in (
        lambda: fits((3, 7), (2, 2)),  # rows differ
        lambda: fits((3,), (3, 2)),  # rank
        lambda: fits((3, 7), (3, 3)),  # a fixed dimension
        lambda: fits((3, 7), (3, 2), "INT32"),  # datatype
        lambda: check_signature({"ids": np.zeros((1, 1), dtype=np.int64)}, {"ids": "INT64"}, SPECS, "m", joins=True),
        lambda: check_signature({"other": np.zeros((1, 1))}, {"other": "FP64"}, SPECS, "m", joins=True),
    ):
        with pytest.raises(InvalidInput):
            wrong()


def test_bf16_is_not_fp32() -> None:
    spec = (TensorSpec("x", "BF16", (-1,)),)
    array = {"x": np.zeros(1, dtype=np.float32)}
    assert check_signature(array, {"x": "BF16"}, spec, "m", joins=True) == 1
    with pytest.raises(InvalidInput, match="BF16"):
        check_signature(array, {"x": "FP32"}, spec, "m", joins=True)


def test_rows_have_a_limit() -> None:
    check_rows(10, 10)
    with pytest.raises(TooLarge, match="max_rows=10"):
        check_rows(11, 10)
    with pytest.raises(InvalidInput):
        check_rows(0, 10)


def test_answers_are_json() -> None:
    values = np.array([[1.5, np.nan]], dtype=np.float32)
    assert json.loads(msgspec.json.encode(to_json(values, "FP32", "x"))) == [1.5, None]
    assert to_json(np.array([["a", b"b"]], dtype=object), "BYTES", "x") == ["a", "b"]
    assert to_binary(np.array(["é"])) == binary_text("é".encode())
