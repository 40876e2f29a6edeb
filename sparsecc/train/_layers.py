"""The layers of a torch module that masks may lie on, and why they may not."""

from __future__ import annotations

import gc
from weakref import WeakKeyDictionary, ref

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from sparsecc.errors import Refused, UserError
from sparsecc.graph.fx.untraced import layers_of, owners_of, site_of
from sparsecc.graph.select import chosen
from sparsecc.graph.sites import WeightSite
from sparsecc.train._masked import Masked, uncover
from sparsecc.train.base import Method

# The layers on which masks lie, and these, so that a second attach() is refused as long as somebody can finish() the first.
MASKED: WeakKeyDictionary[nn.Module, ref[Masked]] = WeakKeyDictionary()


def survey(model: nn.Module, method: Method, optimizer: Optimizer) -> list[tuple[WeightSite, nn.Module, Refused | None]]:
    """The layers meant by the method's targets, in the order in which the model holds them, each with the reason why it stays dense.

    Raises RecipeError for a target that matches nothing, UserError for a meant layer without a shape or whose weight is divided over
    processes, for one that is masked already, and when every layer would stay dense.
    """
    modules: dict[str, nn.Module] = {**layers_of(model)}
    sites = _meant(model, method)
    for site in sites:
        _require_usable(site.name, modules[site.name])
    left = [modules[site.name] for site in sites if modules[site.name] in MASKED]
    for module in left:  # by a handle that is gone
        uncover(module)
        del MASKED[module]
    sites = _meant(model, method) if left else sites
    trained = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    found = [(site, modules[site.name], _refuse(site, modules[site.name], method, trained)) for site in sites]
    if all(reason is not None for _, _, reason in found):
        reasons = "; ".join(str(reason.at(site.name)) for site, _, reason in found[:3] if reason)
        raise UserError(f"no layer can be trained with masks: {reasons or 'the model has no Linear and no Conv2d'}")
    return found


def _meant(model: nn.Module, method: Method) -> list[WeightSite]:
    owners = owners_of(model)
    sites = [site_of(name, module, owners[id(module.weight)] > 1) for name, module in layers_of(model).items()]
    return chosen(sites, WeightSite, method.targets, method.ignore)


def _require_usable(name: str, module: nn.Module) -> None:
    """Raises UserError where this process does not hold the whole weight, of which masks have to see all, or where others lie on it."""
    weight = getattr(module, "weight", None)
    managed = getattr(module, "_is_fsdp_managed_module", False)  # torch's mark on what it divides
    flat = isinstance(weight, nn.Parameter) and not is_lazy(weight) and weight.dim() == 1
    if managed or flat or type(weight).__name__ == "DTensor":
        raise UserError(
            f"layer '{name}': its weight is divided over processes (FSDP and the like), and masks need all of it; "
            "train with DistributedDataParallel, which keeps weights whole"
        )
    if isinstance(weight, Tensor) and is_lazy(weight):
        raise UserError(f"layer '{name}': its weight has no shape yet; run a batch through the model before masks are attached")
    if _is_masked(module):
        raise UserError(f"layer '{name}': masks of another attach() lie on it; finish() that one first, or leave the layer out")


def _is_masked(module: nn.Module) -> bool:
    if module in MASKED and MASKED[module]() is not None:
        gc.collect()  # a handle and its optimizer hold each other, also once nobody else does
    return module in MASKED and MASKED[module]() is not None


def _refuse(site: WeightSite, module: nn.Module, method: Method, trained: set[int]) -> Refused | None:
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    if weight is None:
        return Refused("its weight is computed from other parameters (a parametrization, a weight norm)")
    if id(weight) not in trained or not weight.requires_grad:
        return Refused("the optimizer does not train its weight")
    return method.pruning.refuse(site, method.targets)
