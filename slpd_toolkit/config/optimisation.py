"""Settings of the optimiser and its schedules."""

from dataclasses import dataclass

from slpd_toolkit.config.checks import require, require_at_least


@dataclass(frozen=True, kw_only=True)
class OptimisationConfig:
    """AdamW and its schedules; the defaults are DINO's."""

    lr: float = 0.0005
    """Peak learning rate for 256 regions per step; scaled in proportion to the batch."""

    min_lr: float = 1e-6
    """Learning rate at the end of the cosine schedule."""

    warmup_epochs: int = 10
    """Epochs over which the learning rate rises from 0."""

    weight_decay: float = 0.04
    """Weight decay at the start; never applied to biases and 1-d parameters."""

    weight_decay_end: float = 0.4
    """Weight decay at the end of the cosine schedule."""

    teacher_momentum: float = 0.996
    """Momentum of the teacher's moving average at the start; it rises to 1 along a cosine."""

    clip_grad: float = 3.0
    """Maximum norm of each parameter tensor's own gradient. 0: no clipping."""

    freeze_last_layer: int = 1
    """Epochs in which the head's last layer is not trained."""

    def __post_init__(self) -> None:
        """Check each value."""
        for name in ("lr", "min_lr", "warmup_epochs", "weight_decay", "weight_decay_end"):
            require_at_least(0, name, getattr(self, name))
        for name in ("clip_grad", "freeze_last_layer"):
            require_at_least(0, name, getattr(self, name))
        require(0 <= self.teacher_momentum <= 1, "--teacher-momentum", self.teacher_momentum, "0 to 1")
