"""Classification: ResNets with CARAFE++ downsampling."""
