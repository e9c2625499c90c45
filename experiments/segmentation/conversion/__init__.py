"""Public UperNets and PSPNets: weights of CSAILVision's implementation and of mmseg."""
