"""Times the operators, and the variants of the kernels."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from carafe_kernels import mosaic_gpu

from experiments.benchmarks.calls import operator
from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu import plan
from experiments.benchmarks.gpu.child import Reporter, one_line
from experiments.benchmarks.gpu.timing import (
    calls_at_a_time,
    compile_in_threads,
    compiled,
    grouped,
    set_count,
    text_of,
    time_program,
    traced,
)
from experiments.benchmarks.kernel_calls import kernel_calls

DEFAULT = "default"
# Settings of the variants, by the pass that they change.
VARIANTS = {"forward": plan.VARIANTS["forward"], "backward": plan.VARIANTS["gradients"]}


class Operands(NamedTuple):
    """A set of operands of a case, with both weights and logits."""

    x: jax.Array
    weights: jax.Array
    logits: jax.Array
    dy: jax.Array

    def of(self, case: Case, name: str) -> tuple[jax.Array, ...]:
        """The operands of a pass."""
        kernels = self.weights if case.normalizer is None else self.logits
        return (self.x, kernels) if name == "forward" else (self.x, kernels, self.dy)


@functools.partial(jax.jit, static_argnums=0)
def _random_set(case: Case, key: jax.Array) -> Operands:
    fused = case.replace(normalizer="softmax")
    shapes = case.x_shape, case.weights_shape, case.logits_shape, case.y_shape
    dtypes = case.dtype, case.kernels_dtype, fused.kernels_dtype, case.dtype
    keys = jax.random.split(key, len(shapes))
    return Operands(*map(jax.random.normal, keys, shapes, map(jnp.dtype, dtypes)))


def _key() -> jax.Array:
    """A key of the generator that compiles fastest."""
    return jax.random.key(0, impl="rbg")


def random_sets(case: Case) -> list[Operands]:
    """Random sets of operands that together do not fit into the cache."""
    keys = jax.random.split(_key(), set_count(case.moved.forward))
    return [_random_set(case.replace(normalizer=None), each) for each in keys]


def backward(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that returns only the gradients; its last argument is the cotangent."""
    return lambda *args: jax.vjp(function, *args[:-1])[1](args[-1])


class Job(NamedTuple):
    """A pass of an operator, with the default kernels or a variant of :data:`VARIANTS`."""

    case: Case
    name: str
    variant: str = DEFAULT

    def __str__(self) -> str:
        return f"{self.case.operator} {self.name} {self.variant}"

    @property
    def about(self) -> dict[str, Any]:
        """Fields that identify the job in ``results.json``."""
        return {"case": self.case.to_json(), "pass": self.name, "variant": self.variant}

    @property
    def settings(self) -> Mapping[str, Any]:
        """Fields of ``mosaic_gpu.Settings`` to change."""
        return {} if self.variant == DEFAULT else VARIANTS[self.name][self.variant]


def jobs_of(runs: Sequence[Mapping[str, Any]], variants: Sequence[str]) -> list[Job]:
    """All jobs, the defaults first: they must be measured even if variants fail."""
    defaults = [Job(Case.from_json(run["case"]), name) for run in runs for name in run["passes"]]
    return defaults + [
        job._replace(variant=variant)
        for job in defaults
        for variant in VARIANTS[job.name]
        if variant in variants
    ]


def _trace(job: Job, implementation: str, group: tuple[Any, ...]) -> jax.stages.Traced | Exception:
    """The traced program of a job, or the exception if tracing fails."""
    try:
        with mosaic_gpu.using(**job.settings):
            function = operator(job.case, implementation)
            return traced(function if job.name == "forward" else backward(function), group)
    except Exception as error:
        return error


def _compile(program: jax.stages.Traced) -> Callable[..., Any] | Exception:
    """The compiled program, or the exception if compiling fails."""
    try:
        return compiled(program)
    except Exception as error:
        return error


def _without_errors[Program](
    reporter: Reporter, found: Mapping[Job, Program | Exception]
) -> dict[Job, Program]:
    """The programs without errors. Raises errors of defaults, and reports errors of variants."""
    programs = {}
    for job, program in found.items():
        if not isinstance(program, Exception):
            programs[job] = program
        elif job.variant == DEFAULT:
            raise program
        elif isinstance(program, NotImplementedError):
            reporter.measured(**job.about, refused=one_line(program))
        else:
            reporter.wrong(f"{job}: {one_line(program)}")
    return programs


def operators(
    reporter: Reporter,
    runs: Sequence[Mapping[str, Any]],
    implementation: str,
    variants: Sequence[str],
) -> str:
    """Times passes of operators on the same map.

    Args:
        reporter: reporter that sends messages to the parent process.
        runs: cases in JSON, each with the passes to time.
        implementation: name of the implementation.
        variants: names of the variants in :data:`VARIANTS` to compare with the default.
    """
    jobs = jobs_of(runs, variants)
    case = jobs[0].case
    calls = calls_at_a_time(case.moved.forward)
    random_set = functools.partial(_random_set, case.replace(normalizer=None))
    shapes = [jax.eval_shape(random_set, _key())] * set_count(case.moved.forward)
    reporter.stage("tracing")
    found = compile_in_threads({
        job: functools.partial(_trace, job, implementation, _groups(job, shapes, calls)[0])
        for job in jobs
    })  # fmt: skip
    # A variant may equal the default: each program is compiled and timed once.
    firsts: dict[str, Job] = {}
    compiling: dict[Job, Callable[[], Callable[..., Any] | Exception]] = {}
    for job, program in _without_errors(reporter, found).items():
        first = firsts.setdefault(text_of(program), job)
        if first is job:
            compiling[job] = functools.partial(_compile, program)
        else:
            reporter.measured(**job.about, same_as=first.variant)
    with contextlib.ExitStack() as stack:
        # XLA may run kernels on the device while it compiles, to choose among them.
        if implementation != "mosaic_gpu":
            stack.enter_context(reporter.device_alone())
        reporter.stage("compiling")
        programs = _without_errors(reporter, compile_in_threads(compiling))
        if implementation == "mosaic_gpu":
            stack.enter_context(reporter.device_alone())
        sets = random_sets(case)
        groups = {job[:2]: _groups(job, sets, calls) for job in jobs}
        return "; ".join(_time(reporter, programs, groups))


def _groups(job: Job, sets: Sequence[Operands], calls: int) -> list[tuple[Any, ...]]:
    """The operands of a job, in groups for programs of several calls."""
    return grouped([each.of(job.case, job.name) for each in sets], calls)


def _time(
    reporter: Reporter,
    programs: Mapping[Job, Callable[..., Any]],
    groups: Mapping[Any, Sequence[Any]],
) -> Iterator[str]:
    """Times programs, and compares the results of variants with those of the default."""
    results = {}
    for job, program in programs.items():
        reporter.running(str(job), job.case.to_json())
        mine = groups[job[:2]]
        result = program(*mine[0])[0]
        difference = None
        if job.variant == DEFAULT:
            results[job] = result
        else:
            difference = float(_difference(result, results[job._replace(variant=DEFAULT)]))
        time = time_program(program, mine)
        reporter.measured(**job.about, microseconds=time.median, least=time.least,
                      difference=difference)  # fmt: skip
        yield f"{job} {time.median:.4g} us"


@jax.jit
def _difference(found: Any, others: Any) -> jax.Array:
    """``max|a - b| / max|b|``, the maximum over all results."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(others), strict=True)
    return jnp.stack([
        jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)).max()
        / jnp.abs(b.astype(jnp.float32)).max()
        for a, b in pairs
    ]).max()  # fmt: skip


def one_kernel(
    reporter: Reporter, case: Mapping[str, Any], kernel: str, settings: Mapping[str, Any]
) -> str:
    """Runs a kernel twice, for a profiler.

    Args:
        reporter: reporter that sends messages to the parent process.
        case: the case in JSON.
        kernel: name of the kernel.
        settings: fields of ``mosaic_gpu.Settings`` to change.
    """
    given = Case.from_json(case)
    with mosaic_gpu.using(**settings):
        call = kernel_calls(given)[kernel]
    operands = _random_set(given.replace(normalizer=None), _key())
    x, kernels, dy = operands.of(given, "backward")
    named = {"x": x, "kernels": kernels, "dy": dy}
    arguments = [named[name] for name in call.operands]
    reporter.stage("compiling")
    program = jax.jit(call.function).lower(*arguments).compile()
    reporter.running(kernel, case)
    for _ in range(2):
        jax.block_until_ready(program(*arguments))
    return f"{given} {kernel}"
