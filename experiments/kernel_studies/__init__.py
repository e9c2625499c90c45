"""Studies of trained networks with CARAFE++: do the predicted kernels matter, and at borders?"""
