"""The table of all operators: (domain, operator) to what computes it. A new one goes into the file of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rankfold.training import (
    operators_arithmetic,
    operators_attention,
    operators_contrib,
    operators_elementwise,
    operators_index,
    operators_linear,
    operators_normal,
    operators_pool,
    operators_reduce,
    operators_resize,
    operators_shape,
)
from rankfold.training.node import Operator

OPERATORS: Mapping[tuple[str, str], Operator] = MappingProxyType(
    {
        **operators_elementwise.OPERATORS,
        **operators_arithmetic.OPERATORS,
        **operators_linear.OPERATORS,
        **operators_normal.OPERATORS,
        **operators_attention.OPERATORS,
        **operators_pool.OPERATORS,
        **operators_resize.OPERATORS,
        **operators_reduce.OPERATORS,
        **operators_shape.OPERATORS,
        **operators_index.OPERATORS,
        **operators_contrib.OPERATORS,
    }
)
