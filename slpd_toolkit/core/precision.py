"""The names of the arithmetics that settings and networks share."""

from typing import Literal

Precision = Literal["auto", "bf16", "fp16", "fp32"]
