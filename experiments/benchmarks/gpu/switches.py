"""Why a kernel fails: the same again with one thing changed, and what follows from that."""

from collections.abc import Mapping
from typing import Any

from experiments.benchmarks.gpu.outcomes import FAILED, Outcome

# Changes of `mosaic_gpu.Settings`, or of the case.
SWITCHES: dict[str, Mapping[str, Any]] = {
    "automatic barriers": {"settings": {"automatic_barriers": True}},
    "one slot": {"settings": {"max_slots": 1}},
    "padded maps": {"settings": {"padded_maps": True}},
    "one step": {"case": {"channels": 64}},
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
    unknown = [switch for switch in SWITCHES if outcomes.get(switch) not in {Outcome.OK, *FAILED}]
    helped = [switch for switch in SWITCHES if outcomes.get(switch) is Outcome.OK]
    if helped:
        text = f"right with {', '.join(helped)}: " + "; or ".join(
            _POINTS_AT[switch] for switch in helped
        )
    elif unknown:
        text = "no switch that ran helps"
    else:
        text = "no switch helps: arithmetic, layouts or addresses, not the order of accesses"
    open_question = f" (not known: {', '.join(unknown)})" if unknown else ""
    return f"{kernel}: {text}{open_question}"
