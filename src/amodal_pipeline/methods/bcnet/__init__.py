"""BCNet (Ke et al., CVPR 2021)."""
