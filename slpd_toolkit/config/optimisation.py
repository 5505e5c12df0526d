"""Settings of the optimizer and its schedules."""

from dataclasses import dataclass

from slpd_toolkit.config.checks import require, require_at_least


@dataclass(frozen=True, kw_only=True)
class OptimisationConfig:
    """AdamW and its schedules; the defaults are DINO's."""

    lr: float = 0.0005
    """Peak learning rate for 256 regions per step; scaled linearly with the total batch size."""

    min_lr: float = 1e-6
    """Final learning rate of the cosine schedule."""

    warmup_epochs: int = 10
    """Number of epochs of learning-rate warm-up from 0."""

    weight_decay: float = 0.04
    """Initial weight decay; not applied to biases and 1-D parameters."""

    weight_decay_end: float = 0.4
    """Final weight decay of the cosine schedule."""

    teacher_momentum: float = 0.996
    """Initial momentum of the teacher's moving average; increases to 1 on a cosine schedule."""

    clip_grad: float = 3.0
    """Maximum gradient norm of each parameter tensor. 0: no clipping."""

    freeze_last_layer: int = 1
    """Number of initial epochs in which the head's last layer is frozen."""

    def __post_init__(self) -> None:
        """Check each value."""
        for name in ("lr", "min_lr", "warmup_epochs", "weight_decay", "weight_decay_end"):
            require_at_least(0, name, getattr(self, name))
        for name in ("clip_grad", "freeze_last_layer"):
            require_at_least(0, name, getattr(self, name))
        require(0 <= self.teacher_momentum <= 1, "--teacher-momentum", self.teacher_momentum, "0 to 1")
