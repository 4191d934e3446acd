"""SaVos (Yao et al., NeurIPS 2022): completing objects of videos from other frames."""
