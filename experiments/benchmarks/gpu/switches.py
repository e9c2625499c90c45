"""Settings to change when a failed kernel runs again, and the conclusions from the outcomes."""

from collections.abc import Mapping
from typing import Any

from experiments.benchmarks.gpu.outcomes import FAILED, Outcome

# Changes of the arguments of `switched.switched`.
SWITCHES: dict[str, Mapping[str, Any]] = {
    "automatic barriers": {"settings": {"automatic_barriers": True}},
    "one slot": {"settings": {"max_slots": 1}},
    "padded maps": {"settings": {"padded_maps": True}},
    "one step": {"one_step": True},
}
# The number of failed kernels that run again. Others most likely fail for the same reason.
MAX_KERNELS = 3

_POINTS_AT = {
    "automatic barriers": "a barrier between the threads of a block is missing",
    "one slot": "copying ahead into a second buffer is wrong: its barrier or its parity",
    "padded maps": "copies that start before an array or end after it are wrong: bounds",
    "one step": "a step over the channels corrupts the next step: reused buffers, or parity",
}


def conclusion(kernel: str, outcomes: Mapping[str, Outcome]) -> str:
    """The conclusion from the outcomes with each switch, in one line."""
    idle = [switch for switch in SWITCHES if outcomes.get(switch) is Outcome.REFUSED]
    known = {Outcome.OK, Outcome.REFUSED, *FAILED}
    unknown = [switch for switch in SWITCHES if outcomes.get(switch) not in known]
    helped = [switch for switch in SWITCHES if outcomes.get(switch) is Outcome.OK]
    if helped:
        text = f"right with {', '.join(helped)}: " + "; or ".join(
            _POINTS_AT[switch] for switch in helped
        )
    elif unknown:
        text = "no switch that ran helps"
    else:
        text = "no switch helps: arithmetic, layouts or addresses, not the order of accesses"
    notes = {"does not apply": idle, "not known": unknown}
    noted = [f" ({what}: {', '.join(which)})" for what, which in notes.items() if which]
    return f"{kernel}: {text}{''.join(noted)}"
