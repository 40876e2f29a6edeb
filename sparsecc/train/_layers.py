"""The layers of a torch module that masks may lie on, and why they may not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from weakref import WeakSet

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from sparsecc import allocations
from sparsecc.allocations.base import Layer
from sparsecc.errors import Refused, UserError
from sparsecc.graph.sites import WeightSite
from sparsecc.graph.untraced import Layer as UntracedLayer
from sparsecc.graph.untraced import layers_of, owners_of, site_of
from sparsecc.passes._select import chosen
from sparsecc.train.base import Method

MASKED: WeakSet[nn.Module] = WeakSet()  # the layers on which masks lie, so that a second attach() is refused


def survey(model: nn.Module, method: Method, optimizer: Optimizer) -> list[tuple[WeightSite, nn.Module, Refused | None]]:
    """The layers meant by the method's targets, in the order in which the model holds them, each with the reason why it stays dense.

    Raises RecipeError for a target that matches nothing, UserError for a layer without a shape or whose weight is divided over processes,
    for one that is masked already, and when every layer would stay dense.
    """
    modules: dict[str, nn.Module] = {**layers_of(model)}
    for name, module in modules.items():
        _require_whole(name, module)
    owners = owners_of(model)
    sites = chosen([_site(name, module, owners) for name, module in modules.items()], WeightSite, method.targets, method.ignore)
    for site in sites:
        if modules[site.name] in MASKED:
            raise UserError(f"layer '{site.name}': masks of another attach() lie on it; finish() that one first, or leave the layer out")
    trained = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    found = [(site, modules[site.name], _refuse(site, modules[site.name], method, trained)) for site in sites]
    if all(reason is not None for _, _, reason in found):
        reasons = "; ".join(str(reason.at(site.name)) for site, _, reason in found[:3] if reason)
        raise UserError(f"no layer can be trained with masks: {reasons or 'the model has no Linear and no Conv2d'}")
    return found


def allocate(sites: Sequence[WeightSite], method: Method) -> list[float]:
    """The sparsity that each site is to have in the end."""
    prune = method.prune
    floor = (1 - prune.share) / 4 if prune.floor is None else prune.floor
    layers = [
        Layer(
            name=site.name,
            shape=site.shape,
            units=site.rows * site.cols // prune.format.unit_size,
            unit_scores=lambda site=site: prune.format.unit_scores(site.matrix.detach().abs().float()),
        )
        for site in sites
    ]
    return allocations.create(prune.allocation).allocate(layers, prune.share, floor)


def _require_whole(name: str, module: nn.Module) -> None:
    """Raises UserError where this process does not hold the whole weight, of which masks have to see all."""
    weight = getattr(module, "weight", None)
    managed = getattr(module, "_is_fsdp_managed_module", False)  # torch's mark on what it divides
    flat = isinstance(weight, nn.Parameter) and not is_lazy(weight) and weight.dim() == 1
    if managed or flat or type(weight).__name__ == "DTensor":
        raise UserError(
            f"layer '{name}': its weight is divided over processes (FSDP and the like), and masks need all of it; "
            "train with DistributedDataParallel, which keeps weights whole"
        )


def _site(name: str, module: nn.Module, owners: Counter[int]) -> WeightSite:
    assert isinstance(module, UntracedLayer)
    if is_lazy(module.weight):
        raise UserError(f"layer '{name}': its weight has no shape yet; run a batch through the model before masks are attached")
    return site_of(name, module, owners[id(module.weight)] > 1)


def _refuse(site: WeightSite, module: nn.Module, method: Method, trained: set[int]) -> Refused | None:
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    if weight is None:
        return Refused("its weight is computed from other parameters (a parametrization, a weight norm)")
    if id(weight) not in trained or not weight.requires_grad:
        return Refused("the optimizer does not train its weight")
    return method.prune.refuse(site)
