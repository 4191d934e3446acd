"""PCNet-M (Zhan et al., CVPR 2020): completion and depth order, learnt from visible masks alone."""
