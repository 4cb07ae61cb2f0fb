"""One way to name parts of a model: a role, a glob, a regular expression, a class or a predicate gives sites."""

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from hardy.core.layers import Layers, chosen_layers
from hardy.core.roles import (
    ROLES,
    expert_of,
    is_linear,
    layer_of,
    role_of,
    stacks_of,
    weight_parts,
    weight_tensors,
)
from hardy.errors import InputError, near_misses

Pattern = str | type[nn.Module] | Callable[[str, nn.Module], bool]
Selector = Pattern | Sequence[Pattern]

LINEAR = "linear,!head,!router"
"""Every matrix inside the layers: what is quantized or put on a crossbar unless something else is asked for."""


@dataclasses.dataclass(frozen=True)
class Site:
    """A named place in a model: a module, one of its weight tensors, or some rows of a fused projection.

    Sites are plain data: they can be stored, sent to another process, and used on a copy of the model.

    Attributes:
        name: qualified name; `module.parameter` for an expert tensor, `module:q` for a part of a fused projection.
        module: qualified name of the module it belongs to.
        parameter: attribute of that module which holds the weight, or None if the module has no weight matrix.
        rows: output rows (begin, end) of a fused projection, or None for all of them.
        role: what it does in the model ("attention.q", "mlp.down", ...), or None.
        layer: index of the layer it is in, counted in its stack, or None outside the layers.
        stack: what tells the stack of its layer from the model's other stacks ("encoder"), or "" if there is but one.
        expert: number of the expert it belongs to, where each is a module of its own, or None.
    """

    name: str
    module: str
    parameter: str | None
    rows: tuple[int, int] | None
    role: str | None
    layer: int | None
    stack: str = ""
    expert: int | None = None

    @property
    def short_name(self) -> str:
        """`layer 3 mlp.down` where role and layer are known, else the qualified name.

        With several stacks it is `encoder layer 3 mlp.down`, and of a single expert `layer 3 experts.down[5]`.
        """
        return self.name if self.role is None or self.layer is None else f"{self.layer_name} {self.part_name}"

    @property
    def layer_name(self) -> str:
        """`layer 3`, or `encoder layer 3` where there are several stacks; "" outside the layers."""
        return "" if self.layer is None else f"{self.stack} layer {self.layer}".lstrip()

    @property
    def part_name(self) -> str:
        """Its role, with the number of the expert; without a role the last part of its name."""
        part = self.role or self.name.rpartition(".")[2]
        return part if self.expert is None else f"{part}[{self.expert}]"


def all_sites(model: nn.Module) -> list[Site]:
    """Every site of `model`, in the order of its modules; parts of a fused projection follow the whole."""
    sites, stacks = [], stacks_of(model)
    for name, module in model.named_modules():
        if not name:
            continue
        role, place = role_of(model, name, module), layer_of(name)
        where = (None, "") if place is None else (place[1], stacks[place[0]])
        expert = expert_of(name)
        tensors = weight_tensors(module)
        sites.append(Site(name, name, "weight" if "weight" in tensors else None, None, role, *where, expert))
        for parameter, part_role in tensors.items():
            if parameter != "weight":
                sites.append(Site(f"{name}.{parameter}", name, parameter, None, part_role, *where, expert))
        for part, (rows, part_role) in weight_parts(model, role, module).items():
            sites.append(Site(f"{name}:{part}", name, "weight", rows, part_role, *where, expert))
    return sites


def select(model: nn.Module, selector: Selector = LINEAR, *, layers: Layers | None = None) -> list[Site]:
    """The sites of `model` that `selector` names, in model order.

    Args:
        model: any module.
        selector: one pattern or a sequence of patterns; a string may hold several, separated by commas. A pattern is
            - a role or the beginning of one: "attention.q", "cross_attention", "mlp", "experts", "router", "ssm.out",
              "embedding", "head", "norm"; or "linear" / "conv" for every such weight;
            - a glob on the qualified name: "model.layers.*.mlp.down_proj";
            - "re:" and a regular expression that matches the whole qualified name;
            - a module class;
            - a predicate `f(name, module) -> bool`.
            A word that is both a role and a name is the role. A string that begins with "!" takes away what it
            names, wherever it stands among the patterns; exclusions alone take away from `LINEAR`. A regular
            expression may hold commas, so it stands alone in its string; give a sequence to combine it.
        layers: keep these layers only: "last", "first", an index, a slice "-4:", a list "0,3", or a sequence of these,
            such as (0, 3) or range(4). A model with several stacks has them counted each on its own, and "last" is the
            last of each; "decoder:last" is that of one stack, named by any part of its name.

    A fused projection is selected as a whole or in parts, never both: where both are named the whole stays, and
    where only a part of a chosen whole is excluded the other parts stay.

    Raises:
        InputError: a pattern, or the whole selection, matches nothing (with near misses), or `layers` is malformed.
    """
    sites = all_sites(model)
    modules = dict(model.named_modules())
    patterns = _patterns(selector)
    if not patterns:
        raise InputError(f"the selection {selector!r} is empty; give a role, a name, a class or a predicate")
    if all(_excludes(pattern) for pattern in patterns):
        patterns = [*_patterns(LINEAR), *patterns]
    chosen: set[str] = set()
    excluded: set[str] = set()
    for pattern in patterns:
        bare = pattern[1:].strip() if isinstance(pattern, str) and _excludes(pattern) else pattern
        matched = _matches(bare, sites, modules)
        if not matched and not (_excludes(pattern) and _is_role(bare)):
            raise InputError(
                f"selection {_shown(pattern)} matches nothing in {type(model).__name__}{_hint(bare, sites)}"
            )
        (excluded if _excludes(pattern) else chosen).update(matched)
    found = _resolved(sites, chosen, excluded)
    if layers is not None:
        counts: dict[str, int] = {}
        for site in sites:
            if site.layer is not None:
                counts[site.stack] = max(counts.get(site.stack, 0), site.layer + 1)
        kept = chosen_layers(layers, counts)
        found = [site for site in found if (site.stack, site.layer) in kept]
    if not found:
        limit = "" if layers is None else f" in layers {layers!r}"
        raise InputError(f"selection {_shown(selector)}{limit} matches nothing in {type(model).__name__}")
    return found


OWN_WEIGHTS = (nn.LSTM, nn.GRU, nn.RNN, nn.MultiheadAttention)
"""Modules that multiply with several matrices of their own."""


def with_own_weights(model: nn.Module, sites: Sequence[Site]) -> list[Site]:
    """`sites`, with those of `OWN_WEIGHTS` as one for each matrix that they hold themselves."""
    found = []
    for site in sites:
        module = model.get_submodule(site.module)
        if site.parameter is not None or not isinstance(module, OWN_WEIGHTS):
            found.append(site)
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 2 and name.rpartition("_")[2] != "bias":
                found.append(dataclasses.replace(site, name=f"{site.name}.{name}", parameter=name))
    return found


def _resolved(sites: list[Site], chosen: set[str], excluded: set[str]) -> list[Site]:
    """What is chosen and not excluded, each weight once: a fused whole and its parts never both."""
    broken = {site.module for site in sites if site.rows is not None and site.name in excluded}
    kept = {
        site.name
        for site in sites
        if (site.name in chosen or (site.rows is not None and site.module in chosen))
        and site.name not in excluded
        and site.module not in excluded
        and not (site.rows is None and site.name in broken)
    }
    return [s for s in sites if s.name in kept and (s.rows is None or s.module not in kept)]


def _excludes(pattern: Pattern) -> bool:
    return isinstance(pattern, str) and pattern.startswith("!")


def _is_role(pattern: Pattern) -> bool:
    """Whether it is a word of the vocabulary, which a model need not have for it to be excluded."""
    return pattern in {"linear", "conv"} or any(f"{role}.".startswith(f"{pattern}.") for role in ROLES)


def _patterns(selector: Selector) -> list[Pattern]:
    if isinstance(selector, str):
        # A regular expression may hold commas, so it is never split.
        parts = [selector] if selector.lstrip("! ").startswith("re:") else selector.split(",")
        return [part.strip() for part in parts if part.strip()]
    if isinstance(selector, type) or callable(selector):
        return [selector]
    if not isinstance(selector, Sequence):
        raise InputError(
            f"a selection is a string, a module class, a predicate or a sequence of them, got {selector!r}"
        )
    return [pattern for item in selector for pattern in _patterns(item)]


def _matches(pattern: Pattern, sites: list[Site], modules: dict[str, nn.Module]) -> set[str]:
    if isinstance(pattern, type):
        return {s.name for s in sites if s.name in modules and isinstance(modules[s.name], pattern)}
    if not isinstance(pattern, str):
        return {s.name for s in sites if s.name in modules and pattern(s.name, modules[s.name])}
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern[3:])
        except re.error as error:
            raise InputError(f"selection {pattern!r} is not a regular expression: {error}") from None
        return {s.name for s in sites if expression.fullmatch(s.name)}
    if pattern == "linear":
        fused = {s.module for s in sites if s.rows is not None}
        return {
            s.name
            for s in sites
            if _is_linear(s, modules) and not (s.rows is None and s.name in fused) and not in_adapter(s.module, modules)
        }
    if pattern == "conv":
        return {s.name for s in sites if isinstance(modules.get(s.name), nn.modules.conv._ConvNd)}
    # "attention" names the parts of a fused projection; only its own role, "attention.qkv", names the whole.
    fused = {s.module for s in sites if s.rows is not None}
    by_role = {s.name for s in sites if s.role == pattern}
    by_role |= {s.name for s in sites if (s.role or "").startswith(pattern + ".") and s.name not in fused}
    return by_role or {s.name for s in sites if fnmatch.fnmatchcase(s.name, pattern)}


def _is_linear(site: Site, modules: dict[str, nn.Module]) -> bool:
    """An nn.Linear, a Hugging Face Conv1D, or a stack of expert matrices."""
    if site.parameter is None:
        return False
    if site.parameter != "weight":
        return True
    return is_linear(modules[site.module])


def in_adapter(name: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether the module called `name` belongs to a PEFT adapter, rather than to the layer under it."""
    path = name.split(".")
    return any(
        path[i] != "base_layer" and "base_layer" in modules[".".join(path[:i])]._modules for i in range(1, len(path))
    )


def _shown(selector: object) -> str:
    return repr(selector if isinstance(selector, str) else getattr(selector, "__name__", selector))


def _hint(pattern: Pattern, sites: list[Site]) -> str:
    if not isinstance(pattern, str) or not sites:
        return ""
    roles = sorted({site.role for site in sites if site.role})
    heads = {role.split(".")[0] for role in roles}
    hint = near_misses(pattern, [*roles, *heads, *(site.name for site in sites), "linear", "conv"])
    if not hint and pattern.split(".")[0] in {role.split(".")[0] for role in ROLES}:
        hint = f"; the roles in this model are {', '.join(roles) or 'none'}"
    return hint or f"; roles here: {', '.join(roles) or 'none'}; the first name is {sites[0].name}"
