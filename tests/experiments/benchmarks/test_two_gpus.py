from jax.sharding import AxisType

from experiments.benchmarks.machine_code.two_gpus import CASE, SharedCall, communication, kernels

HALF_OF_Y = "%k.1 = f32[2,48,2,128,256]{4,3,2,1,0} custom-call(%a, %b), custom_call_target="
WHOLE_X = "%k.0 = f32[4,48,64,256]{3,2,1,0} custom-call(%a, %b), custom_call_target="


def test_kernels_are_identified_by_their_results():
    text = f'{WHOLE_X}"mosaic_gpu_v2"\n{HALF_OF_Y}"mosaic_gpu_v2"\n{HALF_OF_Y}"cublas"'
    assert kernels(text) == ["half of y", "x"]
    assert kernels(text.replace("f32[4,48", "f32[5,48")) == [
        f"{5 * 48 * 64 * 256} elements",
        "half of y",
    ]


def test_asynchronous_collectives_are_found():
    text = "%a = f32[2] all-reduce-start(%b)\n%c = f32[2] all-gather(%d)\n%e = add(%all-to-all.1)"
    assert communication(text) == ["all-gather", "all-reduce"]


def test_only_the_gradient_of_replicated_weights_needs_communication():
    def expected(split, gradients):
        return SharedCall(CASE, split, AxisType.Auto, gradients).expected

    assert [expected("batch", g)[1] for g in (False, True)] == [[], []]
    assert [expected("channels", g)[1] for g in (False, True)] == [[], ["all-reduce"]]
