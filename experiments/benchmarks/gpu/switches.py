"""Why a kernel fails: the same again with one thing changed, and what follows from that."""

from collections.abc import Mapping
from typing import Any

from experiments.benchmarks.gpu.outcomes import FAILED, Outcome

# Changes of what `switched.switched` is called with.
SWITCHES: dict[str, Mapping[str, Any]] = {
    "automatic barriers": {"settings": {"automatic_barriers": True}},
    "one slot": {"settings": {"max_slots": 1}},
    "padded maps": {"settings": {"padded_maps": True}},
    "one step": {"one_step": True},
}
# How many kernels that fail are run again; the others fail for the same reason, most likely.
MOST_KERNELS = 3

_POINTS_AT = {
    "automatic barriers": "a barrier between the threads of a block is missing",
    "one slot": "copying ahead into a second buffer goes wrong: its barrier or its parity",
    "padded maps": "copies that start before an array or end after it go wrong: bounds",
    "one step": "a step over the channels spoils the next: buffers that are used again, or parity",
}


def conclusion(kernel: str, outcomes: Mapping[str, Outcome]) -> str:
    """What the outcomes with each switch tell, in one line."""
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
