"""All methods by name, one line each. Does not import torch."""

from typing import Annotated, Any

from pydantic import ConfigDict, GetCoreSchemaHandler, RootModel
from pydantic_core import CoreSchema, core_schema

from amodal_pipeline.methods import contract

METHODS = {
    "mask_rcnn": "amodal_pipeline.methods.configs:MaskRCNNConfig",
    "orcnn": "amodal_pipeline.methods.configs:ORCNNConfig",
    "shape_prior": "amodal_pipeline.methods.configs:ShapePriorConfig",
    "vrsp": "amodal_pipeline.methods.configs:VRSPConfig",
    "aisformer": "amodal_pipeline.methods.aisformer.config:AISFormerConfig",
    "bcnet": "amodal_pipeline.methods.bcnet.config:BCNetConfig",
    "mask_tokenizer": "amodal_pipeline.methods.configs:MaskTokenizerConfig",
    "c2f_seg": "amodal_pipeline.methods.configs:C2FSegConfig",
    "c2f_seg_video": "amodal_pipeline.methods.configs:C2FSegVideoConfig",
    "savos": "amodal_pipeline.methods.configs:SaVosConfig",
    "mask_unet_video": "amodal_pipeline.methods.configs:MaskUNetVideoConfig",
    "sln": "amodal_pipeline.methods.configs:SLNConfig",
    "order_net": "amodal_pipeline.methods.configs:OrderNetConfig",
    "a3d": "amodal_pipeline.methods.configs:A3DConfig",
    "plain_completer": "amodal_pipeline.methods.plain_completer.config:PlainCompleterConfig",
    "pcnet_m": "amodal_pipeline.methods.pcnet_m.config:PCNetMConfig",
}
"""Configuration classes as "module:class"; each has its ``name`` and a ``DESCRIPTION``."""


def describe(job: str) -> contract.Description:
    """Return the description of the method that a job trains."""
    return contract.load(METHODS[jobs()[job]]).DESCRIPTION


def jobs() -> dict[str, str]:
    """Return the method of each job, in the order of :data:`METHODS`."""
    return {
        job: name
        for name, place in METHODS.items()
        for job in contract.load(place).DESCRIPTION.jobs or (name,)
    }


class _Registered:
    """A union of all registered configurations, discriminated by ``name``.

    The schema has the methods that are registered when it is built.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices = {
            name: handler.generate_schema(contract.load(place)) for name, place in METHODS.items()
        }
        return core_schema.tagged_union_schema(choices, discriminator="name")


class MethodConfig(RootModel[Annotated[Any, _Registered]]):
    """The configuration of one method; its field ``name`` selects the class."""

    model_config = ConfigDict(frozen=True)
