"""Functions of one result for what takes and makes functions of several."""


def with_tuple(function):
    return lambda *arrays: (function(*arrays),)


def without_tuple(function):
    def call(*arrays):
        (result,) = function(*arrays)
        return result

    return call
