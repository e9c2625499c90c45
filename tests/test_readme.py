import jax
import pytest

from tests.readme import examples, expected_output


@pytest.mark.parametrize("number", range(len(examples())))
def test_an_example_prints_what_it_says(number, capsys):
    example = examples()[number]
    assert expected_output(example), "an example shows a result"
    with jax.numpy_rank_promotion("allow"):  # as in a reader's session
        exec(compile(example, f"README example {number + 1}", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.splitlines() == expected_output(example)


def test_there_is_one_example_for_each_use():
    text = "\n".join(examples())
    for use in ("carafe_jax.linen", "carafe_jax.nnx", "jax.pmap", "jax.jit", "jax.export"):
        assert use in text
