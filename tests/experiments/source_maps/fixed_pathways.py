"""Bottom-up pathways without a network."""

from experiments.source_maps.pathways import DOWNSAMPLERS, Pathway


def fixed_bottom_up(size, method, *, steps=4):
    """Makes the bottom-up pathway of a ResNet without CARAFE++, by default "C1 to C5".

    Args:
        size: height and width of C1, the input of ``pool``, whose stride is 2.
        method: name of a method in :data:`DOWNSAMPLERS`.
        steps: number of times that the map is halved.
    """
    sizes = [size]
    for _ in range(steps):
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return Pathway(
        name=f"C1 to C{steps + 1}",
        steps=tuple(DOWNSAMPLERS[method](each) for each in sizes[:-1]),
        source_stride=2,
        target_stride=2 ** (steps + 1),
        target_size=sizes[-1],
    )
