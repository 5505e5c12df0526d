"""`slpd demo`: the full pipeline on synthetic slides, in six steps that mostly run the other commands."""

from __future__ import annotations

