"""Names of the precisions, shared by settings and networks."""

from typing import Literal

Precision = Literal["auto", "bf16", "fp16", "fp32"]
