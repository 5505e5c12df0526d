"""Slide-level representations of whole-slide images: token caches, SLPD pretraining, MIL evaluation.

    import slpd_toolkit as slpd

Every command is a function. Modules, and with them torch, are imported when a name is used for the first time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from slpd_toolkit.core.version import __version__

if TYPE_CHECKING:
    from slpd_toolkit.api.commands import (
        embed,
        export,
        heatmap,
        import_features,
        inspect,
        list_encoders,
        manifest_from_clam,
        mil_eval,
        predict,
        pretrain,
        pretrain_slides,
        prototypes,
        represent,
        run_demo,
        search,
        study,
        view,
    )
    from slpd_toolkit.api.functions import load_encoder, region_embeddings, set_verbosity
    from slpd_toolkit.api.results import EvaluationResult, PredictionResult, Run
    from slpd_toolkit.api.tokens import write_tokens
    from slpd_toolkit.core.errors import SlpdError
    from slpd_toolkit.encoders.encoder import Encoder
    from slpd_toolkit.models.region_vit import RegionViT
    from slpd_toolkit.objectives.distillation import cross_view_entropy
    from slpd_toolkit.representations.region_embeddings import RegionEmbeddings
    from slpd_toolkit.representations.slide_index import SlideIndex
    from slpd_toolkit.representations.slide_vectors import SlideVectors
    from slpd_toolkit.store.token_file import TokenFile, TokenStore
    from slpd_toolkit.training.prototype_file import PrototypeFile

_MODULES = {
    "api.commands": (
        *("embed", "import_features", "pretrain", "mil_eval", "predict", "prototypes", "heatmap", "export", "inspect"),
        *("manifest_from_clam", "run_demo", "list_encoders", "represent", "search", "view", "study", "pretrain_slides"),
    ),
    "api.functions": ("region_embeddings", "load_encoder", "set_verbosity"),
    "api.results": ("Run", "EvaluationResult", "PredictionResult"),
    "api.tokens": ("write_tokens",),
    "core.errors": ("SlpdError",),
    "encoders.encoder": ("Encoder",),
    "models.region_vit": ("RegionViT",),
    "objectives.distillation": ("cross_view_entropy",),
    "representations.region_embeddings": ("RegionEmbeddings",),
    "representations.slide_index": ("SlideIndex",),
    "representations.slide_vectors": ("SlideVectors",),
    "store.token_file": ("TokenStore", "TokenFile"),
    "training.prototype_file": ("PrototypeFile",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [  # checked by a test to be the names of _MODULES
    "Encoder",
    "EvaluationResult",
    "PredictionResult",
    "PrototypeFile",
    "RegionEmbeddings",
    "RegionViT",
    "Run",
    "SlideIndex",
    "SlideVectors",
    "SlpdError",
    "TokenFile",
    "TokenStore",
    "__version__",
    "cross_view_entropy",
    "embed",
    "export",
    "heatmap",
    "import_features",
    "inspect",
    "list_encoders",
    "load_encoder",
    "manifest_from_clam",
    "mil_eval",
    "predict",
    "pretrain",
    "pretrain_slides",
    "prototypes",
    "region_embeddings",
    "represent",
    "run_demo",
    "search",
    "set_verbosity",
    "study",
    "view",
    "write_tokens",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
