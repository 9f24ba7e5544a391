"""The YAML of a sweep as frozen, validated objects: `load_spec(path)` or every problem of the file at once.

Imports neither torch nor ray, so that `rayul validate` answers in a fraction of a second.
"""

from rayul.spec.attack import Attack
from rayul.spec.budget import Stagnation
from rayul.spec.certifiable import certifiable, check_certifiable, sets_to_certify, too_few_groups, uncertified
from rayul.spec.certify import LEAST_GROUPS, Certify
from rayul.spec.config import Control, Lora, Model, Resources, Search, Training
from rayul.spec.criteria import (
    Criterion,
    check_baseline_keeps,
    check_limits,
    check_objectives,
    known_limits,
    limits,
    violations,
)
from rayul.spec.custom import is_custom, notices, source_hash
from rayul.spec.data import TESTBED, TESTBED_GROUPS, Data, FolderData, SourceData, Split, TofuData, check_chunks
from rayul.spec.earlier import Earlier
from rayul.spec.evaluate import Evaluate, metric_name
from rayul.spec.finalists import ATTACKS, Finalists
from rayul.spec.gradients import GRADIENTS
from rayul.spec.harness import HarnessTask
from rayul.spec.heaviest import heaviest
from rayul.spec.limits import Limit
from rayul.spec.load import load_spec, parse_spec
from rayul.spec.method import MethodChoice
from rayul.spec.methods import METHODS, Method
from rayul.spec.metrics import (
    CHEAP,
    CHOICES,
    METRICS,
    RESERVE,
    SEARCH_SETS,
    SETS,
    Metric,
    certify_of,
    is_certify_set,
    is_forget_set,
    is_forgetting,
    is_report_set,
    needs_oracle,
    plainly,
    report_of,
    searched_of,
)
from rayul.spec.on_end import OnEnd, is_web_address
from rayul.spec.own_control import OwnControl
from rayul.spec.packaged import PACKAGED, Packaged
from rayul.spec.parameter import Parameter
from rayul.spec.probes import MAX_NEW_TOKENS, ProbeRows, Rouge
from rayul.spec.problems import Problem, SpecError
from rayul.spec.samplers import SAMPLERS
from rayul.spec.shipped import shipped_specs, spec_file
from rayul.spec.source import COLUMNS, GROUP_ALIAS, ONLY_MAPPED, Source
from rayul.spec.space import Choice, Distribution, Float, Int, Prior
from rayul.spec.spec import Spec, difference, without_priors
from rayul.spec.tracking import Tracking
from rayul.spec.update import UPDATES
from rayul.spec.yaml_text import dump_yaml

__all__ = [
    "ATTACKS",
    "CHEAP",
    "CHOICES",
    "COLUMNS",
    "GRADIENTS",
    "GROUP_ALIAS",
    "LEAST_GROUPS",
    "MAX_NEW_TOKENS",
    "METHODS",
    "METRICS",
    "ONLY_MAPPED",
    "PACKAGED",
    "RESERVE",
    "SAMPLERS",
    "SEARCH_SETS",
    "SETS",
    "TESTBED",
    "TESTBED_GROUPS",
    "UPDATES",
    "Attack",
    "Certify",
    "Choice",
    "Control",
    "Criterion",
    "Data",
    "Distribution",
    "Earlier",
    "Evaluate",
    "Finalists",
    "Float",
    "FolderData",
    "HarnessTask",
    "Int",
    "Limit",
    "Lora",
    "Method",
    "MethodChoice",
    "Metric",
    "Model",
    "OnEnd",
    "OwnControl",
    "Packaged",
    "Parameter",
    "Prior",
    "ProbeRows",
    "Problem",
    "Resources",
    "Rouge",
    "Search",
    "Source",
    "SourceData",
    "Spec",
    "SpecError",
    "Split",
    "Stagnation",
    "TofuData",
    "Tracking",
    "Training",
    "certifiable",
    "certify_of",
    "check_baseline_keeps",
    "check_certifiable",
    "check_chunks",
    "check_limits",
    "check_objectives",
    "difference",
    "dump_yaml",
    "heaviest",
    "is_certify_set",
    "is_custom",
    "is_forget_set",
    "is_forgetting",
    "is_report_set",
    "is_web_address",
    "known_limits",
    "limits",
    "load_spec",
    "metric_name",
    "needs_oracle",
    "notices",
    "parse_spec",
    "plainly",
    "report_of",
    "searched_of",
    "sets_to_certify",
    "shipped_specs",
    "source_hash",
    "spec_file",
    "too_few_groups",
    "uncertified",
    "violations",
    "without_priors",
]
